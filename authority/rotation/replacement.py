"""Which CA takes the place of a withdrawn CA; pure."""

from dataclasses import dataclass

from authority.journal.history import EpochCa, History
from authority.rotation.deadlines import last_resort_at
from tidemark.bundle import Cause
from tidemark.epoch import EpochClock


@dataclass(frozen=True, slots=True)
class Replacement:
    """The replacement of a withdrawn CA, before the replacement is activated."""

    withdrawn_ca: EpochCa
    """The CA that is to be taken out of use, or was already."""

    ca: EpochCa | None
    """The CA that is to take over; None: a new CA has to be made."""

    urgent: bool
    """Whether the replacement is activated at once, gate or no gate."""


def pending_withdrawals(history: History, now: int) -> tuple[EpochCa, ...]:
    """CAs that are to be withdrawn and still stand in the newest statement, by order of issue."""
    return tuple(ca for ca in history.cas if ca.withdrawal and not ca.withdrawn and not ca.is_expired(now))


def is_replaced(withdrawn_ca: EpochCa, history: History, now: int) -> bool:
    """Whether the signing CA may take the place of ``withdrawn_ca``: for a revocation, a CA that was issued since."""
    withdrawal, signing = withdrawn_ca.withdrawal, history.signing_at(now)
    if withdrawal is None or signing is None or not signing.may_sign:
        return False
    return withdrawal.cause is Cause.ROLLBACK or signing.journal_position > withdrawal.position


def replacement_of(withdrawn_ca: EpochCa, history: History, clock: EpochClock, now: int) -> EpochCa | None:
    """The CA that takes the place of ``withdrawn_ca``, signing already or not yet; None: a new CA has to be made."""
    if withdrawn_ca.withdrawal is None or is_replaced(withdrawn_ca, history, now):
        return history.signing
    if withdrawn_ca.withdrawal.cause is Cause.REVOCATION:
        # What leaked one key may have leaked all that there were: only a CA made since the request is above suspicion.
        since = [ca for ca in _usable(history, now) if ca.journal_position > withdrawn_ca.withdrawal.position]
        return since[-1] if since else None
    # An older CA first: the fleet has trusted it for longest, and a rollback is to return to what worked.
    newer = [ca for ca in _usable(history, now) if ca.issue_order > withdrawn_ca.issue_order]
    return newest_older(withdrawn_ca, history, clock, now) or (newer[-1] if newer else None)


def replacements(history: History, clock: EpochClock, now: int) -> tuple[Replacement, ...]:
    """Of each withdrawn CA that no activated CA has replaced yet, by order of issue; urgent removals stand last."""
    # An urgent withdrawal removes the CA before the replacement is activated. Such a CA is no longer pending, and still
    # waits for its replacement until an activation stands after the removal.
    removed_first = [
        ca
        for ca in history.cas
        if ca.withdrawal and ca.withdrawal.urgent and ca.removal and not ca.is_expired(now)
        if history.activated_position < ca.removal.position
    ]
    return tuple(
        Replacement(ca, replacement_of(ca, history, clock, now), bool(ca.withdrawal and ca.withdrawal.urgent))
        for ca in (*pending_withdrawals(history, now), *removed_first)
        if not is_replaced(ca, history, now)
    )


def newest_older(withdrawn_ca: EpochCa, history: History, clock: EpochClock, now: int) -> EpochCa | None:
    """The newest CA issued before ``withdrawn_ca`` that can sign.

    A CA that the last resort would have to replace at once does not count.
    """
    older = [
        ca
        for ca in _usable(history, now)
        if ca.issue_order < withdrawn_ca.issue_order and now < last_resort_at(ca, clock)
    ]
    return older[-1] if older else None


def _usable(history: History, now: int) -> list[EpochCa]:
    return [ca for ca in history.cas if ca.may_sign and not ca.is_expired(now)]
