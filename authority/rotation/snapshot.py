"""What decisions about rotation rest on: journal, fleet and time, as they were at one instant; pure."""

from dataclasses import dataclass
from fractions import Fraction

from authority.fleet.view import FleetView
from authority.journal.history import History
from tidemark.epoch import EpochClock

A_THIRD = Fraction(1, 3)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a decision rests on.

    ``intents`` are the CAs that the issuer holds; None where it was not looked at since the newest statement: nothing
    is activated or deleted then. Where it was, the history says which CAs are lost. ``active`` is the intent that the
    issuer signs with for others, None where that is not known. ``tolerance_seconds`` is how far clocks may differ; a CA
    is rolled back unasked where more than ``rollback_above`` of the required agents put it back.
    """

    history: History
    fleet: FleetView
    intents: frozenset[str] | None
    active: str | None
    tolerance_seconds: int = 0
    rollback_above: Fraction = A_THIRD


@dataclass(frozen=True, slots=True)
class Scene:
    """What decisions about withdrawals rest on; ``tolerance_seconds`` is how far clocks may differ."""

    history: History
    fleet: FleetView
    clock: EpochClock
    tolerance_seconds: int
    now: int
