"""Instants that follow from a CA, the clock and the journal alone; pure. All are Unix seconds.

D (an epoch's length) and P (the time for preparation) are those of the present clock, or of the clock that the signing
CA was made under where those are shorter: after D was raised, a rule that counted by the new D alone could outlast the
signing CA.
"""

from authority.journal.history import EpochCa, History
from tidemark.epoch import EpochClock


def last_resort_at(signing: EpochCa, clock: EpochClock) -> int:
    """An epoch before the signing CA expires: from here on another CA takes over, early or ungated if need be."""
    return signing.not_after - min(clock.epoch_seconds, signing.clock.epoch_seconds)


def ripe_at(ca: EpochCa, signing: EpochCa, clock: EpochClock) -> int:
    """When ``ca`` has been public for so long that the last resort may choose it."""
    return ca.published_at + min(clock.prepare_seconds, signing.clock.prepare_seconds)


def removal_due_at(withdrawn_ca: EpochCa, history: History, clock: EpochClock) -> int:
    """When a statement without the CA is due, even where agents still serve its leaves.

    That is an epoch before the CA expires, and no earlier than P after its replacement was activated.
    """
    ripe = history.last_activated_at + min(clock.prepare_seconds, withdrawn_ca.clock.prepare_seconds)
    return max(last_resort_at(withdrawn_ca, clock), ripe)


def next_preparation_at(history: History, clock: EpochClock, now: int) -> int:
    """When the CA of the next epoch that has none is due by the schedule, after ``now``."""
    return clock.prepare_at(max(clock.newest_due(now), history.highest_prepared(clock)) + 1)
