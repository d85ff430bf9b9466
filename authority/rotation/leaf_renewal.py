"""When a leaf certificate is renewed, by which CA, and whether an issued leaf is what was asked for; pure."""

from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import NameOID

from authority.issuer.interface import IssuedLeaf, LeafRequest
from authority.journal.history import EpochCa, History
from tidemark.certificates import (
    Certificate,
    LeafRejected,
    fingerprint,
    issued_by,
    leaf_issuer,
    not_after,
    not_before,
    parse_leaf,
)
from tidemark.epoch import Timing

_LONGEST_GRACE = 10


@dataclass(frozen=True, slots=True)
class LeafSubject:
    """Whom a leaf is for. ``name`` is for logs and status; addresses stand in their usual text form."""

    name: str
    common_name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]


def signing_ca(history: History, now: int) -> EpochCa | None:
    """The CA that leaves can be signed with at ``now``; pure."""
    signing = history.signing
    return None if signing is None or signing.is_expired(now) or not signing.intent else signing


def leaf_request(workload: LeafSubject, signing: EpochCa, timing: Timing, now: int) -> LeafRequest:
    """The leaf that is due now: valid from a tolerance ago, for L, and never longer than its CA; pure."""
    return LeafRequest(
        common_name=workload.common_name,
        dns_names=workload.dns_names,
        ip_addresses=workload.ip_addresses,
        not_before=now - timing.tolerance_seconds,
        not_after=min(now + timing.leaf_seconds, signing.not_after),
    )


def checked(issued: IssuedLeaf, signing: EpochCa, now: int) -> Certificate:
    """The leaf, if it is one that agents take; pure. Raises LeafRejected."""
    leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    issuer = leaf_issuer(leaf, [signing.certificate], (), now)
    if fingerprint(issuer) != signing.sha256 or not_after(leaf.certificate) > signing.not_after:
        raise LeafRejected("chain", f"leaf: expected one that {signing.intent} signed and outlives, found another")
    return leaf.certificate


class LeafCause(StrEnum):
    """Why a leaf was written."""

    MISSING = "missing"  # the target held nothing, or nothing that parses
    FOREIGN = "foreign"  # the target held a leaf of no CA of ours
    NAMES = "names"  # the configuration names other names than the leaf
    ACTIVATION = "activation"  # another CA signs than the one that signed the leaf
    HALF_LIFE = "half_life"


def cause_of_renewal(
    shown: Certificate | None, workload: LeafSubject, history: History, timing: Timing, now: int
) -> LeafCause | None:
    """Why a new leaf is due where the target shows ``shown``; None where it is not; pure.

    At half-life it is due only where it would live longer: a leaf that ends with its CA cannot be prolonged by it. A
    withdrawal counts on leaves that were issued since its replacement was activated (``withdrawal.reissue``).
    """
    signing = signing_ca(history, now)
    if signing is None:
        return None
    if shown is None:
        return LeafCause.MISSING
    signer = signer_of(shown, history)
    if signer is None:
        return LeafCause.FOREIGN
    if signer.sha256 != signing.sha256:
        return LeafCause.ACTIVATION
    if not signing.signed_since_activation(not_before(shown), timing.tolerance_seconds):
        return LeafCause.ACTIVATION  # it signs again, and the leaf is from its first time
    if _names(shown) != _names_of(workload):
        return LeafCause.NAMES
    would_end = leaf_request(workload, signing, timing, now).not_after
    if now >= renewal_at(shown, timing) and would_end > not_after(shown):
        return LeafCause.HALF_LIFE
    return None


def signer_of(leaf: Certificate, history: History) -> EpochCa | None:
    """The CA of ours that signed the leaf; pure."""
    return next((ca for ca in reversed(history.cas) if issued_by(leaf, ca.certificate)), None)


def renewal_at(leaf: Certificate, timing: Timing) -> int:
    """Half of the life that the leaf really has, and a little grace; pure.

    By default L is two epochs, so half a leaf's life ends just when the next CA is activated: the grace lets that come
    first, or every workload would get two leaves an epoch. It never takes from what a delivery may need.
    """
    issued = not_before(leaf) + timing.tolerance_seconds
    spare = timing.leaf_seconds // 2 - timing.tolerance_seconds - timing.delivery_seconds
    grace = max(0, min(_LONGEST_GRACE, timing.clock.epoch_seconds // 10, spare))
    return issued + max(0, not_after(leaf) - issued) // 2 + grace


def _names(leaf: Certificate) -> tuple[list[str], set[str], set[str]]:
    common = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return common, set(), set()
    addresses = {str(address) for address in san.get_values_for_type(x509.IPAddress)}
    return common, set(san.get_values_for_type(x509.DNSName)), addresses


def _names_of(workload: LeafSubject) -> tuple[list[str], set[str], set[str]]:
    return [workload.common_name], set(workload.dns_names), set(workload.ip_addresses)
