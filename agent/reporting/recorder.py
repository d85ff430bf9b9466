"""The chronicle: what happens in the cycle, told to the board, the metrics and the log at once."""

from collections.abc import Callable, Mapping, Sequence

from agent import log
from agent.reporting.metrics import AgentMetrics
from agent.reporting.status import BrokerStatus, InstalledStatus, Journey, StatusWarning, state_of_proof, with_journey
from agent.reporting.status_store import StatusStore
from agent.selection.select import BundleSource
from agent.selection.trust_set import TrustSet
from tidemark.receipt import AgentState, Failure, TargetReport
from tidemark.trust import Trust
from tidemark.verify import Mark, Reason


class Recorder:
    """Tells what happened; decides nothing."""

    def __init__(self, board: StatusStore, metrics: AgentMetrics, now: Callable[[], float]) -> None:
        self._board = board
        self._metrics = metrics
        self._now = now
        self._journeys = 0
        self._travelled: Mark | None = None

    @property
    def state(self) -> AgentState:
        """The state that was told last."""
        return self._board.status.state

    def trusts(self, trust: Trust) -> None:
        """Another trust file counts."""
        keys = tuple(f"{key.name}+{key.hash}" for key in trust.keys)
        self._board.post(keys=keys)
        log.event("trust_adopted", trust_domain=trust.trust_domain, keys=",".join(keys), floor=trust.min_sequence)

    def warns(self, warnings: Sequence[StatusWarning]) -> None:
        """What an operator should mend; replaces the warnings before."""
        for name in dict.fromkeys(warning.name for warning in warnings):
            log.warning(name, detail="; ".join(warning.detail for warning in warnings if warning.name == name))
        self._board.post(warnings=tuple(warnings))

    def broker(self, broker: BrokerStatus) -> None:
        """How the second source stands."""
        before = self._board.status.broker
        self._board.post(broker=broker)
        if not broker.connected:
            log.warning("broker_away", detail=broker.detail)
        elif broker != before:
            log.event("broker_connected", server=broker.detail)

    def fails(self, reason: str, detail: str, mark: Mark | None = None, **fields: object) -> None:
        """Something went wrong; a failure that stays keeps the time of its beginning."""
        before = self._board.status.failure
        sequence, digest = (mark.sequence, mark.digest) if mark else (0, "")
        stays = before and (before.reason, before.sequence, before.digest) == (reason, sequence, digest)
        since = before.at if before and stays else int(self._now())
        self._board.post(failure=Failure(reason, detail, since, sequence, digest))
        log.warning("failure", reason=reason, detail=detail, sequence=sequence or None, **fields)

    def recovers(self) -> None:
        """Nothing is wrong any more."""
        self._board.post(failure=None)

    def verified(self, mark: Mark, issued_at: int, seen_at: float, source: BundleSource) -> None:
        """A candidate passed; one that came before is not told twice."""
        highest = self._board.status.highest
        if highest is None or mark.sequence >= highest.sequence:
            self._board.post(highest=mark)
        if mark == self._travelled:
            return
        self._travelled = mark
        self._metrics.verified("adopted")
        self._metrics.propagation.observe(max(0.0, seen_at - issued_at))
        log.event("verified", sequence=mark.sequence, digest=mark.digest, source=source.value)

    def rejected(self, reason: str) -> None:
        """A candidate did not pass; one that another source has overtaken is no fault of anybody's."""
        self._metrics.verified("superseded" if reason == Reason.SUPERSEDED else "rejected", reason)

    def restored(self, highest: Mark | None, installed: TrustSet | None, proven: TrustSet | None) -> None:
        """The agent found these in its output directory."""
        self._board.post(highest=highest)
        if installed is not None:
            self._board.post(state=AgentState.INSTALLED, installed=InstalledStatus.of(installed))
            log.event("restored", sequence=installed.mark.sequence, digest=installed.mark.digest)
        if proven is not None:
            self._board.post(proven=proven.mark, leaf=proven.leaf_report())
        self._metrics.show(self._board.status)

    def installed(self, trust_set: TrustSet, directory: str, targets: Sequence[TargetReport]) -> None:
        """A set came in place; nothing is proven of it yet."""
        self._board.post(state=AgentState.INSTALLED, installed=InstalledStatus.of(trust_set), targets=tuple(targets))
        self._metrics.show(self._board.status)
        log.event("installed", sequence=trust_set.mark.sequence, directory=directory, leaf=_leaf(trust_set))

    def reports(self, targets: Sequence[TargetReport]) -> None:
        """What the targets have shown so far."""
        self._board.post(targets=tuple(targets))

    def proven(self, trust_set: TrustSet, stages: Mapping[str, float]) -> None:
        """Every target has shown the set."""
        state = state_of_proof(trust_set)
        self._board.post(
            state=state, proven=trust_set.mark, leaf=trust_set.leaf_report(), reverted=None, stages=dict(stages)
        )
        self._metrics.show(self._board.status)
        milliseconds = {f"{stage}_ms": round(seconds * 1000, 1) for stage, seconds in stages.items()}
        log.event(state.value, sequence=trust_set.mark.sequence, leaf=_leaf(trust_set), **milliseconds)

    def settled(self, trust_set: TrustSet) -> None:
        """What is in place and proven was judged again: its leaf may have become an orphan, or no longer be one."""
        self._board.post(state=state_of_proof(trust_set))

    def went_back(self, state: AgentState, refused: TrustSet, in_place: TrustSet, reason: str) -> None:
        """A set was not proven; ``in_place`` is what lies there now, and ``state`` says how the way back went."""
        taken_back = in_place.key != refused.key
        self._board.post(
            state=state, reverted=refused.mark if taken_back else None, installed=InstalledStatus.of(in_place)
        )
        if taken_back:
            self._metrics.reverted(reason)
        self._metrics.show(self._board.status)
        log.error(state.value, reason=reason, refused=refused.mark.sequence, in_place=in_place.mark.sequence)

    def journey_ends(
        self, outcome: str, swapped_at: float, stages: Mapping[str, float], made: TrustSet | Mark | None
    ) -> None:
        """One cycle is complete."""
        self._journeys += 1
        trust_set = made if isinstance(made, TrustSet) else None
        mark = made.mark if isinstance(made, TrustSet) else made
        proven = outcome in (AgentState.PROVEN, AgentState.LEAF_ORPHANED)
        if proven:
            self._metrics.travelled(stages)
        journey = Journey(
            number=self._journeys,
            sequence=mark.sequence if mark else 0,
            digest=mark.digest if mark else "",
            leaf_sha256=trust_set.leaf.sha256 if trust_set and trust_set.leaf else None,
            leaf_issuer_sha256=(trust_set.issuer_sha256 or None) if trust_set else None,
            swapped_at=swapped_at,
            proven_at=self._now() if proven else None,
            outcome=outcome,
            stages=dict(stages),
        )
        self._board.post(journeys=with_journey(self._board.status.journeys, journey))


def _leaf(trust_set: TrustSet) -> str | None:
    return trust_set.leaf.sha256[:16] if trust_set.leaf else None
