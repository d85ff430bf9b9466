"""The fleet: which agents are expected, and what their receipts show; pure.

Unknown is not proven: a silent agent is ``missing``, and an unreadable fleet proves nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from tidemark.receipt import PodClass, Receipt


class FleetState(StrEnum):
    """Where an agent stands with the newest statement."""

    PROVEN = "proven"  # every target showed, at the level it allows, that it uses the newest statement
    RELOADED = "reloaded"  # it has installed the newest statement and not (yet) proven it
    LAGGING = "lagging"  # it reports, but an older statement
    FAILED = "failed"  # it reverted, or its server refuses every reload
    MISSING = "missing"  # expected, and no fresh receipt
    QUARANTINED = "quarantined"  # not expected at present: neither ready nor heard of for too long


@dataclass(frozen=True, slots=True)
class Expected:
    """An agent that should be there. ``uid`` is the pod's where it is known ("" otherwise).

    ``ready`` and ``since`` (Unix seconds) are the pod's readiness and since when it is so; without Kubernetes every
    agent of the configuration counts as ready since the start of the authority.
    """

    name: str
    pod_class: PodClass
    uid: str
    ready: bool
    since: int


@dataclass(frozen=True, slots=True)
class Received:
    """A receipt and when it arrived, by the authority's clock (``at`` whole seconds, ``exact`` with fractions)."""

    receipt: Receipt
    at: int
    exact: float


@dataclass(frozen=True, slots=True)
class AgentView:
    """One agent as the gate and people see it; ``received`` is its freshest receipt, stale or not."""

    name: str
    pod_class: PodClass
    state: FleetState
    fresh: bool
    received: Received | None


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at one instant. ``readable`` is False where the list of expected agents could not be had."""

    readable: bool
    agents: tuple[AgentView, ...]
