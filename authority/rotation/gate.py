"""The gate: activation of a CA waits until the fleet has proven that it trusts it; pure.

The rules are in docs/architecture.md, "Gate".
"""

from dataclasses import dataclass
from enum import StrEnum

from authority.journal.history import EpochCa, History
from authority.journal.record_types import Opening
from authority.rotation.snapshot import Snapshot
from tidemark.receipt import PodClass


class ClosedReason(StrEnum):
    """Why a gate is closed."""

    UNREADABLE = "unreadable"
    """The list of expected agents could not be read."""

    EMPTY = "empty"
    """No agent is expected."""

    SILENT = "silent"
    """No agent has proven the CA, and none is waited for any longer."""

    WAITING = "waiting"
    """Agents that are waited for have not proven the CA."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate of one CA at one instant: open or closed, never both."""

    ca: EpochCa

    opening: Opening | None
    """Why the gate is open; None where it is closed."""

    closed: ClosedReason | None
    """Why the gate is closed; None where it is open."""

    waiting: tuple[str, ...]
    """Names of the agents that are waited for."""

    unproven: tuple[str, ...]
    """Names of every expected agent that has not proven the CA."""

    deadline: int
    """Unix seconds; from here on no application is waited for."""


def gate_of(ca: EpochCa, snapshot: Snapshot) -> Gate:
    """The gate of ``ca`` as the snapshot shows it."""
    proving = snapshot.history.containing(ca.sha256)
    expected = [agent for agent in snapshot.fleet.agents if agent.expected]
    unproven = [agent for agent in expected if not agent.has_proven(proving)]
    deadline = max(ca.start, ca.published_at) + snapshot.clock.epoch_seconds
    waiting = [agent for agent in unproven if agent.pod_class is PodClass.REQUIRED or snapshot.now < deadline]
    # The order counts: an unreadable fleet lists no agent, and says nothing about how many there are.
    closed = None
    if not snapshot.fleet.readable:
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
    elif _is_overridden(ca, snapshot.history):
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
    """Whether an operator opened this gate since the CA was activated last: an override opens it once."""
    used_until = -1 if ca.activated_at is None else ca.activated_at
    return any(override.ca == ca.sha256 and override.at > used_until for override in history.overrides)
