"""The set that an agent installs: ``ca.crt``, ``bundle.note`` and, where the agent manages it, the leaf; pure."""

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
    """A verified bundle and its leaf."""

    verified: VerifiedBundle
    leaf: Leaf | None = None
    """None where the agent does not manage the leaf."""
    issuer_sha256: str = ""
    """Fingerprint of the CA that signed the leaf; "" without a leaf or where the CA is not known."""
    orphaned: bool = False
    """Whether the leaf does not chain to the bundle; it stays because no fitting leaf is there."""

    @property
    def mark(self) -> Mark:
        """Sequence and digest of the statement."""
        return Mark(self.verified.sequence, self.verified.digest)

    @property
    def key(self) -> tuple[str, str | None]:
        """Identifies the set: digest of the statement's text, and of the leaf with its chain (None: no leaf)."""
        return self.verified.digest, hashlib.sha256(self.leaf.certificate_pem).hexdigest() if self.leaf else None

    def is_valid_at(self, now: int) -> bool:
        """Whether an intermediate and the leaf, if there is one, are valid, so that peers may accept the workload."""
        anchors = self.verified.statement.intermediates
        leaf_is_valid = self.leaf is None or is_valid_at(self.leaf.certificate, now)
        return leaf_is_valid and any(anchor.not_before <= now <= anchor.not_after for anchor in anchors)

    def files(self) -> dict[str, bytes]:
        """The files by name; their bytes are those that were verified."""
        files = {CA_FILE: self.verified.bundle.ca, NOTE_FILE: self.verified.bundle.note}
        if self.leaf is not None:
            files |= {LEAF_FILE: self.leaf.certificate_pem, KEY_FILE: self.leaf.key_pem}
        return files

    def leaf_report(self) -> LeafReport | None:
        """The leaf for receipts and status; None where there is no leaf, or its issuer is not known."""
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
    """Choose the leaf for a verified bundle: the mounted leaf if it fits, else the installed one.

    Returns the set, and why the mounted leaf is not in it (None: it is).

    Raises:
        LeafRejected: the mounted leaf does not fit, and no leaf is installed.
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
    """Fingerprint of the CA that signed the leaf, even expired or withdrawn; "" where bundle and chain lack it."""
    for ca in (*verified.certificates, *leaf.chain):
        if issued_by(leaf.certificate, ca):
            return fingerprint(ca)
    return ""
