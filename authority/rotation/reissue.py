"""Which certificates of cert-manager have to be issued anew after a withdrawal; pure."""

from dataclasses import dataclass
from typing import Any

from authority.journal.history import EpochCa, History
from authority.journal.record_types import ActivationRecord
from authority.rotation.replacement import is_replaced

FAILURE_SECONDS = 300
"""How long a Certificate whose re-issuance failed is not marked again."""


@dataclass(frozen=True, slots=True)
class Issuance:
    """A cert-manager Certificate, as far as a re-issuance concerns it.

    Fields of https://cert-manager.io/docs/reference/api-docs/#cert-manager.io/v1.Certificate.
    """

    namespace: str
    name: str

    version: str
    """``metadata.resourceVersion``: what a write is compared with."""

    generation: int | None

    issuer: str
    """Name of the issuer; "" where it is of another group's kind."""

    not_before: int | None
    """Unix seconds; of the leaf in the Certificate's Secret, None where there is none."""

    failed_at: int | None
    """Unix seconds; when an issuance failed last, None where none did."""

    conditions: tuple[dict[str, Any], ...]
    """All of ``status.conditions``, as they stand there."""

    @property
    def full_name(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_issuing(self) -> bool:
        """Whether cert-manager is issuing, or is about to."""
        return any((each.get("type"), each.get("status")) == ("Issuing", "True") for each in self.conditions)


def outdated_before(history: History, now: int) -> int | None:
    """When the leaves began that no withdrawn CA has signed (Unix seconds).

    None where no CA is withdrawn, or none has been replaced yet. Until a withdrawn CA is removed from the statements
    that is the last activation, as for step 3 of the withdrawal (``withdrawal.leaf_reissue``). From then on it is the
    activation of the CA that took over, so that rotations to come ask for no more leaves.
    """
    withdrawn = [ca for ca in history.cas if (ca.withdrawal or ca.withdrawn) and not ca.is_expired(now)]
    instants = [_replaced_at(ca, history, now) for ca in withdrawn]
    return max((instant for instant in instants if instant is not None), default=None)


def _replaced_at(withdrawn_ca: EpochCa, history: History, now: int) -> int | None:
    if withdrawn_ca.ca_id and withdrawn_ca.activated_at is None:
        return None  # the CA never signed
    if withdrawn_ca.removal is None:
        return history.last_activated_at if is_replaced(withdrawn_ca, history, now) else None
    activations = [
        (each.position, each.record) for each in history.entries if isinstance(each.record, ActivationRecord)
    ]
    last = max(
        (position for position, record in activations if record.ca == withdrawn_ca.sha256),
        default=withdrawn_ca.journal_position,
    )
    return next((record.at for position, record in activations if position > last), None)


def is_due(certificate: Issuance, issuer: str, before: int, tolerance_seconds: int, now: int) -> bool:
    """Whether the Certificate is to be marked for re-issuance.

    OpenBao sets a leaf's NotBefore a tolerance before its issue. A leaf that was issued in the second of ``before`` is
    marked too: which CA signed that leaf is not known.
    """
    if certificate.issuer != issuer or certificate.is_issuing or certificate.not_before is None:
        return False
    failed_at = certificate.failed_at
    has_just_failed = failed_at is not None and before <= failed_at and now < failed_at + FAILURE_SECONDS
    return certificate.not_before + tolerance_seconds <= before and not has_just_failed
