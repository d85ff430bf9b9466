"""The fleet: which agents are expected, and what their receipts show; pure.

Unknown is not proven: a silent agent is ``missing``, and an unreadable fleet proves nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tidemark.epoch import EpochClock
from tidemark.receipt import AgentState, PodClass, Receipt

LONGEST_HEARTBEAT = 60
"""Seconds: agents report at least so often, however long the epochs are."""

_STARTS_REMEMBERED = 16


class FleetState(StrEnum):
    """Where an agent stands with the newest statement."""

    PROVEN = "proven"  # every target showed, at the level it allows, that it uses the newest statement
    RELOADED = "reloaded"  # it has installed the newest statement and not (yet) proven it
    LAGGING = "lagging"  # it reports, but an older statement
    FAILED = "failed"  # it reverted, or its server refuses every reload
    MISSING = "missing"  # expected, and no fresh receipt
    QUARANTINED = "quarantined"  # not expected at present: neither ready nor heard of for too long


@dataclass(frozen=True, slots=True)
class ExpectedAgent:
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
class ReceivedReceipt:
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
    received: ReceivedReceipt | None

    @property
    def expected(self) -> bool:
        """Whether the gate counts with it at all."""
        return self.state is not FleetState.QUARANTINED

    def has_proven(self, digests: Collection[str]) -> bool:
        """Whether a fresh receipt says that every target uses one of these statements."""
        if not self.fresh or self.received is None or self.received.receipt.proven is None:
            return False
        return self.received.receipt.proven.digest in digests


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at one instant. ``readable`` is False where the list of expected agents could not be had."""

    readable: bool
    agents: tuple[AgentView, ...]

    def counts(self, pod_class: PodClass | None = None) -> dict[FleetState, int]:
        """How many agents are in each state; of one class, where that is asked for."""
        counts = dict.fromkeys(FleetState, 0)
        for agent in self.agents:
            if pod_class in (None, agent.pod_class):
                counts[agent.state] += 1
        return counts


def heartbeat_seconds(clock: EpochClock) -> int:
    """How often an agent reports even where nothing changes: D/4, at most a minute."""
    return max(1, min(clock.epoch_seconds // 4, LONGEST_HEARTBEAT))


def freshness_seconds(clock: EpochClock) -> int:
    """How long a receipt counts: D/2 and two heartbeats."""
    return clock.epoch_seconds // 2 + 2 * heartbeat_seconds(clock)


@dataclass(slots=True)
class ReceiptBook:
    """The last receipt of each agent, by pod name; one that was overtaken on its way is not believed.

    Starts of an agent (``nonce``) have no order of their own: one that another has followed never comes back.
    """

    _last: dict[str, ReceivedReceipt] = field(default_factory=dict)
    _ended: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def accept(self, received: ReceivedReceipt) -> bool:
        """Take the receipt up, if it is newer than what is known; whether it is.

        A repetition of the last receipt (a client that tries again) is not newer.
        """
        receipt = received.receipt
        last = self._last.get(receipt.pod)
        if last is not None:
            if receipt.nonce == last.receipt.nonce:
                if receipt.number <= last.receipt.number:
                    return False
            elif receipt.nonce in self._ended.get(receipt.pod, ()):
                return False
            else:
                ended = (*self._ended.get(receipt.pod, ()), last.receipt.nonce)
                self._ended[receipt.pod] = ended[-_STARTS_REMEMBERED:]
        self._last[receipt.pod] = received
        return True

    def last(self, name: str, uid: str = "") -> ReceivedReceipt | None:
        """The last receipt of this agent; of exactly this pod, where ``uid`` is given."""
        received = self._last.get(name)
        return received if received is not None and uid in ("", received.receipt.uid) else None

    def prune(self, keep: Collection[str], before: int) -> None:
        """Forget agents that are not in ``keep`` and were last heard of before ``before`` (Unix seconds)."""
        gone = [name for name, received in self._last.items() if name not in keep and received.at < before]
        for name in gone:
            del self._last[name]
            self._ended.pop(name, None)


def view(
    expected: Sequence[ExpectedAgent] | None, book: ReceiptBook, newest_digest: str, clock: EpochClock, now: int
) -> FleetView:
    """The fleet at ``now``, in the order of ``expected``; None: the list could not be read.

    ``newest_digest`` is of the statement that the states are about ("" where there is none).
    """
    if expected is None:
        return FleetView(readable=False, agents=())
    agents = []
    fresh_for = freshness_seconds(clock)
    for pod in expected:
        received = book.last(pod.name, pod.uid)
        fresh = received is not None and now - received.at <= fresh_for
        if received is not None and fresh:
            state = _reported(received.receipt, newest_digest)
        elif pod.ready or now - max(pod.since, received.at if received else 0) <= clock.prepare_seconds:
            state = FleetState.MISSING
        else:
            state = FleetState.QUARANTINED
        agents.append(AgentView(pod.name, pod.pod_class, state, fresh, received))
    return FleetView(readable=True, agents=tuple(agents))


def _reported(receipt: Receipt, newest_digest: str) -> FleetState:
    if receipt.proven is not None and receipt.proven.digest == newest_digest:
        return FleetState.PROVEN
    if receipt.state in (AgentState.REVERTED, AgentState.RELOAD_REFUSED):
        return FleetState.FAILED
    if receipt.installed is not None and receipt.installed.digest == newest_digest:
        return FleetState.RELOADED
    return FleetState.LAGGING
