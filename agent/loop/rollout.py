"""The rollout of one set: installed, delivered to every workload and proven, or reverted where the proof fails."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.clocks import Clocks
from agent.loop.delivery import Delivery, DeliveryTimes
from agent.loop.journey import JourneyProgress
from agent.loop.retry import Retry
from agent.loop.wakeup import Superseded, Wakeup
from agent.reporting.recorder import Recorder
from agent.reporting.status import state_of_proof
from agent.selection.trust_set import TrustSet
from agent.store.set_store import PlacedSet, SetStore
from agent.workloads.interface import Expectation, NotProven, WorkloadAbsent
from tidemark.certificates import Leaf, fingerprint, is_valid_at
from tidemark.receipt import AgentState


@dataclass(slots=True, eq=False)
class Rollout:
    """Rolls out one set at a time."""

    directory: Path
    """The directory that workloads are told to read."""
    store: SetStore
    delivery: Delivery
    recorder: Recorder
    clocks: Clocks
    wakeup: Wakeup
    retry: Retry
    on_installed: Callable[[], None]
    """Called after another set came in place."""

    def __post_init__(self) -> None:
        self.delivery.on_report = self._report_target

    def is_backing_off(self, trust_set: TrustSet) -> bool:
        """True: the set was refused and its pause is not over; the cycle wakes when it is."""
        remaining = self.retry.remaining(trust_set.key, asyncio.get_running_loop().time())
        if remaining:
            self.wakeup.wake_within(remaining)
        return remaining > 0

    async def roll_out(self, trust_set: TrustSet, progress: JourneyProgress) -> None:
        """Install the set and bring it to the workloads.

        Raises:
            InstallFailed: the output directory could not be written.
        """
        placed = self._install(trust_set, progress)
        proven = self.store.proven
        was_proven = proven is not None and proven.trust_set.key == trust_set.key
        try:
            times = await self._deliver(self._expectation(placed, (proven, placed)), probe_first=was_proven)
        except Superseded:
            self.recorder.journey_ended(AgentState.INSTALLED, progress.swapped_at, progress.stages, trust_set)
        except NotProven as failure:
            await self._revert(placed, failure, progress)
        else:
            self._record_proof(placed, times, progress)
        self.store.sweep()

    def schedule_retry(self, refused: TrustSet | None = None) -> None:
        """Wake the cycle after a pause that grows with each failure; ``refused`` is the set that was not proven."""
        now = asyncio.get_running_loop().time()
        self.wakeup.wake_within(self.retry.record_failure(now, refused.key if refused else None))

    def _install(self, trust_set: TrustSet, progress: JourneyProgress) -> PlacedSet:
        """Install the set, unless it is installed already."""
        placed = self.store.installed
        self.delivery.reset()
        begin = asyncio.get_running_loop().time()
        if placed is None or placed.trust_set.key != trust_set.key:
            placed = self.store.place(trust_set)
            self.on_installed()
            self.recorder.installed(trust_set, placed.directory, self.delivery.reports)
        else:
            self.recorder.targets_changed(self.delivery.reports)
        progress.stages["install"] = asyncio.get_running_loop().time() - begin
        self.retry.start(trust_set.key)
        return placed

    async def _deliver(self, expected: Expectation, *, probe_first: bool) -> DeliveryTimes:
        # The disk makes the switch durable in a thread meanwhile: a workload need not wait for that. The report must
        # wait, or a power cut could undo a set that the authority knows as proven.
        finished = asyncio.create_task(asyncio.to_thread(self.store.finish_install), name="finish install")
        try:
            return await self.delivery.deliver(expected, probe_first=probe_first)
        finally:
            await finished

    def _record_proof(self, placed: PlacedSet, times: DeliveryTimes, progress: JourneyProgress) -> None:
        trust_set = placed.trust_set
        progress.stages |= {"reload": times.reload_seconds, "prove": times.prove_seconds}
        self.recorder.proven(trust_set, progress.stages)
        self.recorder.journey_ended(state_of_proof(trust_set), progress.swapped_at, progress.stages, trust_set)
        self.recorder.rejection_changed(progress.rejection)
        self.retry.record_success()
        self.store.mark_proven(placed)
        if progress.next_may_overlap:
            self.wakeup.wake_within(0.0)  # that bundle is judged again, now by this set

    async def _revert(self, refused: PlacedSet, failure: NotProven, progress: JourneyProgress) -> None:
        """Put the last proven set back in place, unless that would be no better, and try the refused set later."""
        trust_set, proven = refused.trust_set, self.store.proven
        obstacle = _obstacle_to_revert(proven, trust_set, int(self.clocks.now()))
        if proven is None or obstacle:
            state, result = AgentState.RELOAD_REFUSED, f"it stays: {obstacle}"
        else:
            state, result = await self._restore_proven(proven, refused)
        detail = f"{failure}; {result}" if result else str(failure)
        in_place = self.store.installed or refused
        self.recorder.set_refused(state, trust_set, in_place.trust_set, failure.reason)
        self.recorder.failed(failure.reason, detail, trust_set.mark)
        self.recorder.journey_ended(state, progress.swapped_at, progress.stages, trust_set)
        self.schedule_retry(trust_set)

    async def _restore_proven(self, proven: PlacedSet, refused: PlacedSet) -> tuple[AgentState, str]:
        """Put the last proven set back; returns the state, and what an operator should know of it ("": nothing)."""
        placed = self.store.put_back(proven)
        self.on_installed()
        try:
            await self.delivery.redeliver(self._expectation(placed, (placed, refused)))
        except NotProven as error:
            return (
                AgentState.RELOAD_REFUSED,
                f"the last proven set is back in place, and is not proven either: {error}",
            )
        except WorkloadAbsent as error:
            return AgentState.REVERTED, f"the last proven set is back in place, and a workload is absent: {error}"
        return AgentState.REVERTED, ""

    def _expectation(self, placed: PlacedSet, known: Sequence[PlacedSet | None]) -> Expectation:
        """What workloads must show; ``known`` are the sets that a workload may use at this moment."""
        verified, leaf = placed.trust_set.verified, placed.trust_set.leaf
        return Expectation(
            sequence=verified.sequence,
            ca_sha256=verified.bundle.ca_sha256,
            subjects=tuple(certificate.subject for certificate in verified.certificates),
            leaf=leaf,
            directory=self.directory,
            installed_at=placed.at,
            presented=_trusted_throughout(placed, known, self.clocks.now()),
            identities=tuple(dict.fromkeys(self.store.path_of(one) for one in known if one is not None)),
        )

    def _report_target(self, target: str, failure: WorkloadAbsent | NotProven | None) -> None:
        self.recorder.targets_changed(self.delivery.reports)
        if failure is not None and self.store.installed is not None:
            waiting = isinstance(failure, WorkloadAbsent) or None
            mark = self.store.installed.trust_set.mark
            self.recorder.failed(failure.reason, str(failure), mark, target=target, waiting=waiting)


def _obstacle_to_revert(proven: PlacedSet | None, refused: TrustSet, now: int) -> str:
    """Why the last proven set must not go back in place of the refused one; "" where it may."""
    if proven is None or proven.trust_set.key == refused.key:
        return "no other set has been proven"
    if proven.trust_set.verified.intermediates & set(refused.verified.statement.withdrawn):
        return "the last proven set holds a withdrawn CA"
    if not proven.trust_set.is_valid_at(now):
        return "the last proven set has expired"
    return ""


def _trusted_throughout(placed: PlacedSet, known: Sequence[PlacedSet | None], now: float) -> Leaf | None:
    """A leaf that a workload trusts before and after the reload: valid, and issued by a CA of ``placed``."""
    anchors = {fingerprint(certificate) for certificate in placed.trust_set.verified.certificates}
    for one in known:
        if one is None or one.trust_set.leaf is None or one.trust_set.issuer_sha256 not in anchors:
            continue
        if is_valid_at(one.trust_set.leaf.certificate, int(now)):
            return one.trust_set.leaf
    return None
