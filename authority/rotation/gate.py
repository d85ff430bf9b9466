"""The gate: activation of a CA waits until the fleet has proven that it trusts it; pure.

The rules are in docs/architecture.md, "Gate".

D and P are those of the present clock, or of the clock that the signing CA was made under where those are shorter:
after D was raised, a rule that counted by the new one alone could outlast the signing CA.
"""

from dataclasses import dataclass
from enum import StrEnum

from authority.fleet.view import FleetView
from authority.journal.history import EpochCa, History
from authority.journal.record_types import Opening
from tidemark.epoch import EpochClock
from tidemark.receipt import PodClass


class ClosedReason(StrEnum):
    """Why a gate is closed."""

    UNREADABLE = "unreadable"  # the list of expected agents could not be had
    EMPTY = "empty"  # no agent is expected
    SILENT = "silent"  # nobody has proven the CA, though nobody has to be waited for any longer
    WAITING = "waiting"  # agents that are waited for have not proven it


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate of one CA at one instant: open (``opening`` says how) or closed (``closed`` says why).

    ``waiting`` names the agents that are waited for, ``unproven`` every expected agent that has not proven the CA.
    From ``deadline`` (Unix seconds) on, applications are waited for no longer.
    """

    ca: EpochCa
    opening: Opening | None
    closed: ClosedReason | None
    waiting: tuple[str, ...]
    unproven: tuple[str, ...]
    deadline: int


def gate_of(ca: EpochCa, history: History, fleet: FleetView, clock: EpochClock, now: int) -> Gate:
    """Look at the gate of ``ca``."""
    proving = history.containing(ca.sha256)
    expected = [agent for agent in fleet.agents if agent.expected]
    unproven = [agent for agent in expected if not agent.has_proven(proving)]
    deadline = max(ca.start, ca.published_at) + clock.epoch_seconds
    waiting = [agent for agent in unproven if agent.pod_class is PodClass.REQUIRED or now < deadline]
    closed = None
    if not fleet.readable:
        closed = ClosedReason.UNREADABLE
    elif not expected:
        closed = ClosedReason.EMPTY
    elif waiting:
        closed = ClosedReason.WAITING
    elif len(unproven) == len(expected):
        closed = ClosedReason.SILENT
    opening = None
    if closed is None:
        opening = Opening.DEADLINE if unproven else Opening.GATE
    elif _is_overridden(ca, history):
        opening, closed = Opening.OVERRIDE, None
    return Gate(
        ca=ca,
        opening=opening,
        closed=closed,
        waiting=tuple(agent.name for agent in waiting),
        unproven=tuple(agent.name for agent in unproven),
        deadline=deadline,
    )


def _is_overridden(ca: EpochCa, history: History) -> bool:
    """Whether an operator opened this gate; one that was opened for an earlier activation has served."""
    served = -1 if ca.activated_at is None else ca.activated_at
    return any(override.ca == ca.sha256 and override.at > served for override in history.overrides)


def last_resort_at(signing: EpochCa, clock: EpochClock) -> int:
    """An epoch before the signing CA expires: from here on another one takes over, early or ungated if need be."""
    return signing.not_after - min(clock.epoch_seconds, signing.clock.epoch_seconds)


def ripe_at(ca: EpochCa, signing: EpochCa, clock: EpochClock) -> int:
    """When ``ca`` has been public for so long that the last resort may choose it."""
    return ca.published_at + min(clock.prepare_seconds, signing.clock.prepare_seconds)
