"""The delivery of a set to the workloads: reload, prove, wait for those that are absent, try again.

Each target goes its own way, all of them at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.loop.timing import RetryPolicy
from agent.reporting.metrics import AgentMetrics
from agent.workloads.interface import Expectation, NotProven, Proof, Prover, ReloadAnswer, Reloader, WorkloadAbsent
from agent.workloads.targets import Target
from tidemark.receipt import Level, TargetReport

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Workload:
    """A target with its reloader and prover."""

    target: Target
    reloader: Reloader
    prover: Prover
    splay: float = 0.0
    """Seconds to wait before the reload, so that the applications of a fleet do not reload at the same instant."""


@dataclass(frozen=True, slots=True)
class DeliveryTimes:
    """How long it took until every workload had proven the set."""

    reload_seconds: float
    """Until the last workload was told to reload."""
    prove_seconds: float
    """From then until the last workload had proven the set."""


Wait = Callable[[float], Awaitable[None]]
"""Waits for so many seconds; may raise Superseded."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How a delivery waits; each raises Superseded where the wait has become pointless."""

    pause: Wait
    """Between two tries; over early when a newer candidate arrives."""
    idle: Wait
    """For an absent workload; over early also when rejected candidates are to be judged again."""


class Delivery:
    """Brings sets to the workloads, one set at a time."""

    def __init__(self, workloads: Sequence[Workload], policy: RetryPolicy, metrics: AgentMetrics, waits: Waits) -> None:
        self.on_report: Callable[[str, WorkloadAbsent | NotProven | None], None] = lambda _name, _failure: None
        """Called after each report with the target's name and the failure (None: the workload has proven the set)."""
        self._targets = [_TargetDelivery(workload, policy, metrics, waits, self._changed) for workload in workloads]

    @property
    def reports(self) -> list[TargetReport]:
        """What is known of each target, in the order of the configuration."""
        return [target.report for target in self._targets]

    def reset(self) -> None:
        """Another set has come in place: nothing is known of any target."""
        for target in self._targets:
            target.reset()

    async def deliver(self, expected: Expectation, *, probe_first: bool) -> DeliveryTimes:
        """Have every workload use the set and prove it; waits without end for an absent workload.

        ``probe_first``: the set was in place and proven before, so a workload that shows it need not reload.

        Raises:
            NotProven: a workload did not prove the set, after every try.
            Superseded: there is something newer to do.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        reloads = [target.deliver(expected, probe_first=probe_first) for target in self._targets]
        last_reload = max(await _all(reloads, asyncio.FIRST_EXCEPTION), default=begin)
        return DeliveryTimes(last_reload - begin, loop.time() - last_reload)

    async def redeliver(self, expected: Expectation) -> None:
        """Have every workload use a set that it has proven before, in one try.

        CA list and leaf alone are the proof where they can be seen: a server whose configuration is broken refuses
        this reload too, and may never have left the set. Every workload is told, even where another one fails.

        Raises:
            WorkloadAbsent, NotProven: a workload does not show the set.
        """
        await _all([target.redeliver(expected) for target in self._targets], asyncio.ALL_COMPLETED)

    def _changed(self, target: str, failure: WorkloadAbsent | NotProven | None) -> None:
        self.on_report(target, failure)


async def _all(work: Sequence[Coroutine[Any, Any, T]], until: str) -> list[T]:
    """Run all at once; raises the first NotProven, else the first failure."""
    # No TaskGroup: where a child fails, Python before 3.11.5 leaves the parent marked as being cancelled, and every
    # later asyncio.timeout in it then ends the task instead of the wait.
    tasks = [asyncio.create_task(part) for part in work]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=until)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if failures:
        raise next((failure for failure in failures if isinstance(failure, NotProven)), failures[0])
    return [task.result() for task in tasks]


class _TargetDelivery:
    """Brings sets to one workload."""

    def __init__(
        self,
        workload: Workload,
        policy: RetryPolicy,
        metrics: AgentMetrics,
        waits: Waits,
        on_report: Callable[[str, WorkloadAbsent | NotProven | None], None],
    ) -> None:
        self._workload = workload
        self._policy = policy
        self._metrics = metrics
        self._waits = waits
        self._on_report = on_report
        self.report: TargetReport
        self.reset()

    def reset(self) -> None:
        self.report = TargetReport(self._workload.target.url, Level.NONE, self._workload.target.allowed)

    async def deliver(self, expected: Expectation, *, probe_first: bool) -> float:
        """Returns when the workload was told, by the loop's clock."""
        target = self._workload.target
        if probe_first and target.can_be_probed and await self._shows_already(expected):
            return asyncio.get_running_loop().time()
        if self._workload.splay:
            await self._waits.pause(self._workload.splay)
        failures = absences = 0
        while True:
            try:
                return await self._try(expected, trust_start=failures == 0)
            except WorkloadAbsent as absent:
                self._record_failure(absent, "absent")
                await self._waits.idle(self._policy.absent_pause_after(absences))
                absences += 1
            except NotProven as failure:
                self._record_failure(failure, failure.reason)
                failures, absences = failures + 1, 0
                if failures == self._policy.tries:
                    raise
                await self._waits.pause(self._policy.retry_pause_after(failures))

    async def redeliver(self, expected: Expectation) -> None:
        target, reloader, prover = self._workload.target, self._workload.reloader, self._workload.prover
        baseline = None if target.can_be_probed else await prover.baseline(self._policy.probe_timeout)
        try:
            reloaded = await reloader.reload(expected, self._policy.proof_timeout)
        except NotProven:
            if not target.can_be_probed:
                raise
            reloaded = ReloadAnswer()  # what the server shows decides
        self._record_proof(await prover.prove(expected, reloaded, baseline, self._policy.proof_timeout))

    async def _try(self, expected: Expectation, *, trust_start: bool) -> float:
        reloader, prover = self._workload.reloader, self._workload.prover
        reloaded, baseline = ReloadAnswer(), None
        # A workload that started with the set in place has loaded it, so it is asked for the proof alone. After
        # a failure it is told to reload.
        if not (await reloader.started_after(expected.installed_at) and trust_start):
            # The load time of the configuration must be known before the reload, or a change could not be seen after.
            baseline = await prover.baseline(self._policy.probe_timeout)
            reloaded = await reloader.reload(expected, self._policy.proof_timeout)
        told = asyncio.get_running_loop().time()
        self._record_proof(await prover.prove(expected, reloaded, baseline, self._policy.proof_timeout))
        return told

    async def _shows_already(self, expected: Expectation) -> bool:
        try:
            proof = await self._workload.prover.prove(expected, ReloadAnswer(), None, self._policy.probe_timeout)
        except (WorkloadAbsent, NotProven):
            return False  # a reload follows; where that fails too, the failure is reported
        self._record_proof(proof)
        return True

    def _record_proof(self, proof: Proof) -> None:
        target = self._workload.target
        self.report = TargetReport(target.url, proof.level, proof.allowed, proof.detail)
        self._metrics.count_reload(target.name, proof.level.word)
        self._on_report(target.name, None)

    def _record_failure(self, failure: WorkloadAbsent | NotProven, outcome: str) -> None:
        target = self._workload.target
        self.report = TargetReport(target.url, Level.NONE, target.allowed, str(failure))
        self._on_report(target.name, failure)
        self._metrics.count_reload(target.name, outcome)
