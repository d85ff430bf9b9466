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
"""Seconds after half-life that a renewal waits at most, so that a new CA is activated first."""


@dataclass(frozen=True, slots=True)
class LeafSubject:
    """The workload that a leaf is for."""

    name: str
    """For logs and status."""

    common_name: str
    dns_names: tuple[str, ...]

    ip_addresses: tuple[str, ...]
    """In their usual text form."""


def signing_ca(history: History, now: int) -> EpochCa | None:
    """The CA that leaves can be signed with at ``now``."""
    signing = history.signing_at(now)
    return signing if signing is not None and signing.ca_id else None


def leaf_request(workload: LeafSubject, signing: EpochCa, timing: Timing, now: int) -> LeafRequest:
    """The leaf that is due now: valid from a tolerance ago, for L, and never longer than its CA."""
    return LeafRequest(
        common_name=workload.common_name,
        dns_names=workload.dns_names,
        ip_addresses=workload.ip_addresses,
        not_before=now - timing.tolerance_seconds,
        not_after=min(now + timing.leaf_seconds, signing.not_after),
    )


def checked_leaf(issued: IssuedLeaf, signing: EpochCa, now: int) -> Certificate:
    """The issued leaf, verified as agents verify a leaf. Raises LeafRejected."""
    leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    issuer = leaf_issuer(leaf, [signing.certificate], (), now)
    if fingerprint(issuer) != signing.sha256 or not_after(leaf.certificate) > signing.not_after:
        raise LeafRejected("chain", f"leaf: expected a leaf that {signing.ca_id} signed and outlives, found another")
    return leaf.certificate


class LeafCause(StrEnum):
    """Why a leaf was written."""

    MISSING = "missing"
    """The target held nothing, or nothing that parses."""

    FOREIGN = "foreign"
    """The target held a leaf of no CA of ours."""

    NAMES = "names"
    """The leaf has other names than the configuration."""

    ACTIVATION = "activation"
    """Another CA signs now than the CA that signed the leaf."""

    HALF_LIFE = "half_life"
    """Half of the leaf's validity is over."""


def cause_of_renewal(
    current: Certificate | None, workload: LeafSubject, history: History, timing: Timing, now: int
) -> LeafCause | None:
    """Why a new leaf is due where the target holds the leaf ``current``; None where no new leaf is due.

    At half-life a new leaf is due only where it would live longer: a leaf that ends with its CA cannot be prolonged by
    that CA. A withdrawal counts on leaves that were issued since its replacement was activated
    (``withdrawal.leaf_reissue``).
    """
    signing = signing_ca(history, now)
    if signing is None:
        return None
    if current is None:
        return LeafCause.MISSING
    signer = signer_of(current, history)
    if signer is None:
        return LeafCause.FOREIGN
    if signer.sha256 != signing.sha256:
        return LeafCause.ACTIVATION
    if not signing.signed_since_activation(not_before(current), timing.tolerance_seconds):
        return LeafCause.ACTIVATION  # the CA signs again, and the leaf is from its first activation
    if _names_in(current) != _names_for(workload):
        return LeafCause.NAMES
    # A leaf that its CA cuts short would come out no longer than the present one, at every look from half-life on.
    would_end = leaf_request(workload, signing, timing, now).not_after
    if now >= renewal_at(current, timing) and would_end > not_after(current):
        return LeafCause.HALF_LIFE
    return None


def signer_of(leaf: Certificate, history: History) -> EpochCa | None:
    """The CA of ours that signed the leaf; None where none did."""
    return next((ca for ca in reversed(history.cas) if issued_by(leaf, ca.certificate)), None)


def renewal_at(leaf: Certificate, timing: Timing) -> int:
    """When the leaf is due for renewal (Unix seconds): after half of its validity, and a little grace.

    By default L is two epochs, so half a leaf's life ends just when the next CA is activated. The grace lets the
    activation come first, or every workload would get two leaves an epoch. The grace never shortens the time that the
    delivery of a leaf may need.
    """
    issued = not_before(leaf) + timing.tolerance_seconds
    spare = timing.leaf_seconds // 2 - timing.tolerance_seconds - timing.delivery_seconds
    grace = max(0, min(_LONGEST_GRACE, timing.clock.epoch_seconds // 10, spare))
    return issued + max(0, not_after(leaf) - issued) // 2 + grace


def _names_in(leaf: Certificate) -> tuple[list[str], set[str], set[str]]:
    common = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return common, set(), set()
    addresses = {str(address) for address in san.get_values_for_type(x509.IPAddress)}
    return common, set(san.get_values_for_type(x509.DNSName)), addresses


def _names_for(workload: LeafSubject) -> tuple[list[str], set[str], set[str]]:
    return [workload.common_name], set(workload.dns_names), set(workload.ip_addresses)
