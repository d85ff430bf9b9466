"""The set: what an agent installs together, ``ca.crt`` and ``bundle.note`` and, where it is managed, the leaf; pure."""

import hashlib
from dataclasses import dataclass

from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE
from tidemark.certificates import (
    Leaf,
    LeafRejected,
    fingerprint,
    is_valid_at,
    issued_by,
    leaf_issuer,
    not_after,
    not_before,
)
from tidemark.receipt import LeafReport
from tidemark.verify import Mark, VerifiedBundle


@dataclass(frozen=True, slots=True)
class TrustSet:
    """A verified bundle and the leaf that goes in with it (None: not managed).

    ``issuer_sha256`` is the fingerprint of the CA that signed the leaf ("" without one); ``orphaned`` says that no leaf
    fits the bundle, and this one is only kept because there is no other.
    """

    verified: VerifiedBundle
    leaf: Leaf | None = None
    issuer_sha256: str = ""
    orphaned: bool = False

    @property
    def mark(self) -> Mark:
        """Number and digest of its statement."""
        return Mark(self.verified.sequence, self.verified.digest)

    @property
    def key(self) -> tuple[str, str | None]:
        """What makes it another set: the statement's text, and the leaf with its chain."""
        return self.verified.digest, hashlib.sha256(self.leaf.certificate_pem).hexdigest() if self.leaf else None

    def is_valid_at(self, now: int) -> bool:
        """Whether peers may take a workload that uses it: an intermediate is valid, and the leaf, if there is one."""
        anchors = self.verified.statement.intermediates
        leaf_is_valid = self.leaf is None or is_valid_at(self.leaf.certificate, now)
        return leaf_is_valid and any(anchor.not_before <= now <= anchor.not_after for anchor in anchors)

    def files(self) -> dict[str, bytes]:
        """The files by name, byte for byte as they were verified."""
        files = {CA_FILE: self.verified.bundle.ca, NOTE_FILE: self.verified.bundle.note}
        if self.leaf is not None:
            files |= {LEAF_FILE: self.leaf.certificate_pem, KEY_FILE: self.leaf.key_pem}
        return files

    def leaf_report(self) -> LeafReport | None:
        """The leaf as receipts and the status show it; None where there is none, or its issuer is not known."""
        if self.leaf is None or not self.issuer_sha256:
            return None
        certificate = self.leaf.certificate
        return LeafReport(
            sha256=self.leaf.sha256,
            issuer=certificate.issuer.rfc4514_string(),
            issuer_sha256=self.issuer_sha256,
            serial=f"{certificate.serial_number:x}",
            not_before=not_before(certificate),
            not_after=not_after(certificate),
        )


def compose(
    verified: VerifiedBundle, mounted: Leaf | LeafRejected, installed: TrustSet | None, now: int
) -> tuple[TrustSet, LeafRejected | None]:
    """Choose the leaf that goes in with a verified bundle: the mounted one if it fits, else the last that did.

    Returns the set, and why the mounted leaf stays out (None: it goes in).

    Raises:
        LeafRejected: the mounted leaf does not fit, and none is installed.
    """
    complaint = mounted if isinstance(mounted, LeafRejected) else None
    if isinstance(mounted, Leaf):
        try:
            return TrustSet(verified, mounted, _fitting_issuer(mounted, verified, now)), None
        except LeafRejected as error:
            complaint = error
    if complaint is None or installed is None or installed.leaf is None:
        raise complaint or LeafRejected("missing", "expected a leaf, found none")
    kept = installed.leaf
    try:
        return TrustSet(verified, kept, _fitting_issuer(kept, verified, now)), complaint
    except LeafRejected as error:
        issuer = find_issuer(kept, verified) or installed.issuer_sha256
        return TrustSet(verified, kept, issuer, orphaned=error.reason == "chain"), complaint


def _fitting_issuer(leaf: Leaf, verified: VerifiedBundle, now: int) -> str:
    return fingerprint(leaf_issuer(leaf, verified.certificates, verified.statement.withdrawn, now))


def find_issuer(leaf: Leaf, verified: VerifiedBundle) -> str:
    """Fingerprint of the CA that signed the leaf, expired, withdrawn or not, where the bundle or its chain has it."""
    for ca in (*verified.certificates, *leaf.chain):
        if issued_by(leaf.certificate, ca):
            return fingerprint(ca)
    return ""
