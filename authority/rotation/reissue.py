"""Which certificates of cert-manager have to be issued anew after a withdrawal; pure."""

from dataclasses import dataclass
from typing import Any

from authority.journal.history import EpochCa, History
from authority.journal.record_types import ActivationRecord
from authority.rotation.withdrawal import is_replaced

FAILURE_SECONDS = 300
"""How long a Certificate is left alone whose re-issuance has failed."""


@dataclass(frozen=True, slots=True)
class Issuance:
    """What is kept of a Certificate at ``version``; instants in Unix seconds, None where there is none.

    ``not_before`` is that of the leaf in its Secret; ``conditions`` are all of its status, as they stand there.
    """

    namespace: str
    name: str
    version: str
    generation: int | None
    issuer: str
    not_before: int | None
    failed_at: int | None
    conditions: tuple[dict[str, Any], ...]

    @property
    def full_name(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_issuing(self) -> bool:
        """Whether cert-manager issues already, or is about to."""
        return any((each.get("type"), each.get("status")) == ("Issuing", "True") for each in self.conditions)


def outdated_before(history: History, now: int) -> int | None:
    """When leaves began that no withdrawn CA has signed; None where nothing is withdrawn, or not yet replaced; pure.

    Until a bad CA is left out that is the last activation, as step 3 of its withdrawal has it (``withdrawal.reissue``);
    from then on the one that took over from it, so that rotations to come ask for no more leaves.
    """
    bad = [ca for ca in history.cas if (ca.withdrawal or ca.withdrawn) and not ca.is_expired(now)]
    instants = [_replaced_at(ca, history, now) for ca in bad]
    return max((instant for instant in instants if instant is not None), default=None)


def _replaced_at(bad: EpochCa, history: History, now: int) -> int | None:
    if bad.intent and bad.activated_at is None:
        return None  # it never signed
    if bad.left_out is None:
        return history.activations[-1].at if is_replaced(bad, history, now) else None
    activations = [
        (each.position, each.record) for each in history.entries if isinstance(each.record, ActivationRecord)
    ]
    last = max((position for position, record in activations if record.ca == bad.sha256), default=bad.position)
    return next((record.at for position, record in activations if position > last), None)


def is_due(one: Issuance, issuer: str, before: int, tolerance_seconds: int, now: int) -> bool:
    """Whether the Certificate is to be marked; pure. OpenBao sets a leaf's NotBefore a tolerance before its issue.

    One that was issued in the second of ``before`` is marked too: which CA signed it cannot be told.
    """
    if one.issuer != issuer or one.is_issuing or one.not_before is None:
        return False
    has_just_failed = one.failed_at is not None and before <= one.failed_at and now < one.failed_at + FAILURE_SECONDS
    return one.not_before + tolerance_seconds <= before and not has_just_failed
