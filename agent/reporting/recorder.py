"""The recorder: what happens in the cycle goes to status, metrics and log at once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from agent import log
from agent.reporting.metrics import AgentMetrics
from agent.reporting.status import BrokerStatus, InstalledStatus, Journey, StatusWarning, state_of_proof, with_journey
from agent.reporting.status_store import StatusStore
from agent.selection.select import BundleSource, Refusal
from agent.selection.trust_set import TrustSet
from tidemark.receipt import AgentState, Failure, TargetReport
from tidemark.trust import Trust
from tidemark.verify import Mark, Reason


class Recorder:
    """Records events; decides nothing. ``now`` is the wall clock.

    It has a method for each event, named by what happened, and so more methods than other classes.
    """

    def __init__(self, status_store: StatusStore, metrics: AgentMetrics, now: Callable[[], float]) -> None:
        self._status_store = status_store
        self._metrics = metrics
        self._now = now
        self._journeys = 0
        self._last_verified: Mark | None = None

    @property
    def state(self) -> AgentState:
        """The state of the present status."""
        return self._status_store.status.state

    def trust_adopted(self, trust: Trust) -> None:
        """Another trust file counts from now on."""
        keys = tuple(f"{key.name}+{key.hash}" for key in trust.keys)
        self._status_store.update(keys=keys)
        log.event("trust_adopted", trust_domain=trust.trust_domain, keys=",".join(keys), floor=trust.min_sequence)

    def warnings_changed(self, warnings: Sequence[StatusWarning]) -> None:
        """These warnings replace those from before; each name is one line of the log."""
        for name in dict.fromkeys(warning.name for warning in warnings):
            log.warning(name, detail="; ".join(warning.detail for warning in warnings if warning.name == name))
        self._status_store.update(warnings=tuple(warnings))

    def polled_mounts_changed(self, paths: Collection[Path]) -> None:
        """These mounts are polled from now on: inotify does not serve them, or the configuration says so."""
        self._status_store.update(polled=tuple(map(str, paths)))
        self._metrics.update_gauges(self._status_store.status)

    def broker_connected(self, server: str) -> None:
        """Announcements arrive from ``server``; logged once."""
        broker = BrokerStatus(connected=True, detail=server)
        if broker != self._status_store.status.broker:
            self._status_store.update(broker=broker)
            log.event("broker_connected", server=server)

    def broker_disconnected(self, reason: str) -> None:
        """The connection to the broker was lost or could not be made."""
        self._status_store.update(broker=BrokerStatus(connected=False, detail=reason))
        log.warning("broker_away", detail=reason)

    def failed(self, reason: str, detail: str, mark: Mark | None = None, **fields: object) -> None:
        """A step failed. A failure that was recorded before keeps the time of its beginning.

        ``mark`` is the statement that it is about (None: none is known); ``fields`` are for the log alone.
        """
        before = self._status_store.status.failure
        sequence, digest = (mark.sequence, mark.digest) if mark else (0, "")
        persists = before and (before.reason, before.sequence, before.digest) == (reason, sequence, digest)
        since = before.at if before and persists else int(self._now())
        self._status_store.update(failure=Failure(reason, detail, since, sequence, digest))
        log.warning("failure", reason=reason, detail=detail, sequence=sequence or None, **fields)

    def rejection_changed(self, rejection: Refusal | None) -> None:
        """The sources show a candidate that was refused, while the set itself is well; None: no such candidate."""
        if rejection is None:
            self._status_store.update(failure=None)
            return
        from_mount = rejection.source is BundleSource.MOUNT
        self.failed(
            rejection.reason,
            rejection.detail if from_mount else f"{rejection.source.value}: {rejection.detail}",
            rejection.claimed,
            source=rejection.source.value,
            security=rejection.security or None,
        )

    def verified(self, mark: Mark, issued_at: int, seen_at: float, source: BundleSource) -> None:
        """A candidate passed verification; counted once where it passes again. Instants are Unix seconds."""
        highest = self._status_store.status.highest
        if highest is None or mark.sequence >= highest.sequence:
            self._status_store.update(highest=mark)
        if mark == self._last_verified:
            return
        self._last_verified = mark
        self._metrics.count_verification("adopted")
        self._metrics.observe_propagation(max(0.0, seen_at - issued_at))
        log.event("verified", sequence=mark.sequence, digest=mark.digest, source=source.value)

    def rejected(self, reason: str) -> None:
        """A candidate did not pass verification."""
        # A source that lags behind another shows superseded statements; that is not an error to alert on.
        self._metrics.count_verification("superseded" if reason == Reason.SUPERSEDED else "rejected", reason)

    def restored(self, highest: Mark | None, installed: TrustSet | None, proven: TrustSet | None) -> None:
        """The agent read these back from its output directory."""
        self._status_store.update(highest=highest)
        if installed is not None:
            self._status_store.update(state=AgentState.INSTALLED, installed=InstalledStatus.of(installed))
            log.event("restored", sequence=installed.mark.sequence, digest=installed.mark.digest)
        if proven is not None:
            self._status_store.update(proven=proven.mark, leaf=proven.leaf_report())
        self._metrics.update_gauges(self._status_store.status)

    def installed(self, trust_set: TrustSet, directory: str, targets: Sequence[TargetReport]) -> None:
        """A set was installed; no workload has proven it yet."""
        self._status_store.update(
            state=AgentState.INSTALLED, installed=InstalledStatus.of(trust_set), targets=tuple(targets)
        )
        self._metrics.update_gauges(self._status_store.status)
        log.event("installed", sequence=trust_set.mark.sequence, directory=directory, leaf=_leaf(trust_set))

    def targets_changed(self, targets: Sequence[TargetReport]) -> None:
        """There are newer reports of the targets."""
        self._status_store.update(targets=tuple(targets))

    def proven(self, trust_set: TrustSet, stages: Mapping[str, float]) -> None:
        """Every workload has proven the set; ``stages`` are durations in seconds."""
        state = state_of_proof(trust_set)
        self._status_store.update(
            state=state, proven=trust_set.mark, leaf=trust_set.leaf_report(), reverted=None, stages=dict(stages)
        )
        self._metrics.update_gauges(self._status_store.status)
        milliseconds = {f"{stage}_ms": round(seconds * 1000, 1) for stage, seconds in stages.items()}
        log.event(state.value, sequence=trust_set.mark.sequence, leaf=_leaf(trust_set), **milliseconds)

    def settled(self, trust_set: TrustSet) -> None:
        """The proven set was judged again: its leaf may have become an orphan, or no longer be an orphan."""
        self._status_store.update(state=state_of_proof(trust_set))

    def set_refused(self, state: AgentState, refused: TrustSet, in_place: TrustSet, reason: str) -> None:
        """A set was not proven.

        ``in_place`` is the set that is installed now, and ``state`` the result: REVERTED or RELOAD_REFUSED.
        """
        was_replaced = in_place.key != refused.key
        self._status_store.update(
            state=state, reverted=refused.mark if was_replaced else None, installed=InstalledStatus.of(in_place)
        )
        if was_replaced:
            self._metrics.count_revert(reason)
        self._metrics.update_gauges(self._status_store.status)
        log.error(state.value, reason=reason, refused=refused.mark.sequence, in_place=in_place.mark.sequence)

    def journey_ended(
        self, outcome: str, swapped_at: float, stages: Mapping[str, float], result: TrustSet | Mark | None
    ) -> None:
        """A journey is complete; ``result`` is its set, or the statement that it ended with, as far as it came."""
        self._journeys += 1
        trust_set = result if isinstance(result, TrustSet) else None
        mark = result.mark if isinstance(result, TrustSet) else result
        is_proven = outcome in (AgentState.PROVEN, AgentState.LEAF_ORPHANED)
        if is_proven:
            self._metrics.observe_stages(stages)
        journey = Journey(
            number=self._journeys,
            sequence=mark.sequence if mark else 0,
            digest=mark.digest if mark else "",
            leaf_sha256=trust_set.leaf.sha256 if trust_set and trust_set.leaf else None,
            leaf_issuer_sha256=(trust_set.issuer_sha256 or None) if trust_set else None,
            swapped_at=swapped_at,
            proven_at=self._now() if is_proven else None,
            outcome=outcome,
            stages=dict(stages),
        )
        self._status_store.update(journeys=with_journey(self._status_store.status.journeys, journey))


def _leaf(trust_set: TrustSet) -> str | None:
    return trust_set.leaf.sha256[:16] if trust_set.leaf else None
