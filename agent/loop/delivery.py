"""Handing a set over to the workloads: tell each, have it prove, wait for those that are not there, try again.

The part of the cycle's sequence that is about one target; each target goes its own way, all of them at once.
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
    """One target with what tells it and what proves it; ``splay``: seconds that it is told later than others."""

    target: Target
    reloader: Reloader
    prover: Prover
    splay: float = 0.0


@dataclass(frozen=True, slots=True)
class DeliveryTimes:
    """Every workload took the set: how long until the last was told, and from then until the last had proven it."""

    reload_seconds: float
    prove_seconds: float


class Delivery:
    """Brings sets to the workloads. ``pause`` waits, and raises where a newer candidate makes waiting pointless;
    ``idle`` as well, for a workload that is not there, also where it is time to judge the candidates again."""

    def __init__(
        self,
        workloads: Sequence[Workload],
        patience: RetryPolicy,
        metrics: AgentMetrics,
        pause: Callable[[float], Awaitable[None]],
        idle: Callable[[float], Awaitable[None]],
    ) -> None:
        self._workloads = workloads
        self._patience = patience
        self._metrics = metrics
        self._pause = pause
        self._idle = idle
        self.reports: list[TargetReport] = []
        self.on_report: Callable[[str, WorkloadAbsent | NotProven | None], None] = lambda _name, _trouble: None
        self.forget()

    def forget(self) -> None:
        """Another set has come in place: nothing is known of any target."""
        self.reports = [TargetReport(w.target.url, Level.NONE, w.target.allowed) for w in self._workloads]

    async def bring(self, expected: Expectation, *, look_first: bool) -> DeliveryTimes:
        """Have every workload use the set and prove it; waits as long as it takes for one that is not there.

        ``look_first``: the set was in place and proven before, so a workload that shows it is not told again.

        Raises:
            NotProven: a workload did not prove it, after every try.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        told = await self._all(lambda place: self._bring(place, expected, look_first=look_first))
        last_told = max(told, default=begin)
        return DeliveryTimes(last_told - begin, loop.time() - last_told)

    async def bring_back(self, expected: Expectation) -> None:
        """Have every workload use a set that it has proven before, in one try.

        CA list and leaf alone are the proof, where they can be seen: a server whose configuration is broken refuses
        this reload too, and may never have left the set. Each workload is told, whatever comes of the others.

        Raises:
            WorkloadAbsent, NotProven: a workload does not show it.
        """
        await self._all(lambda place: self._bring_back(place, expected), until=asyncio.ALL_COMPLETED)

    async def _all(self, one: Callable[[int], Coroutine[Any, Any, T]], until: str = asyncio.FIRST_EXCEPTION) -> list[T]:
        # No TaskGroup: where a child fails, Python before 3.11.5 leaves the parent marked as being cancelled, and every
        # later asyncio.timeout in it then ends the task instead of the wait.
        tasks = [asyncio.create_task(one(place)) for place in range(len(self._workloads))]
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

    async def _bring(self, place: int, expected: Expectation, *, look_first: bool) -> float:
        """Returns when the workload was told, by the loop's clock."""
        workload, patience = self._workloads[place], self._patience
        if look_first and workload.target.shows and await self._shows_already(place, expected):
            return asyncio.get_running_loop().time()
        if workload.splay:
            await self._pause(workload.splay)
        failures = looks = 0
        while True:
            try:
                return await self._try(place, expected, trusting_start=failures == 0)
            except WorkloadAbsent as absent:
                self._report(place, Level.NONE, absent)
                self._metrics.reloaded(workload.target.name, "absent")
                await self._idle(patience.before_look(looks))
                looks += 1
            except NotProven as failure:
                self._report(place, Level.NONE, failure)
                self._metrics.reloaded(workload.target.name, failure.reason)
                failures, looks = failures + 1, 0
                if failures == patience.tries:
                    raise
                await self._pause(patience.before_try(failures))

    async def _try(self, place: int, expected: Expectation, *, trusting_start: bool) -> float:
        workload, patience = self._workloads[place], self._patience
        reloaded, baseline = ReloadAnswer(), None
        # A workload that started with the set in place has loaded it; it is asked to show that, but not told.
        if not (await workload.reloader.started_after(expected.installed_at) and trusting_start):
            baseline = await workload.prover.baseline(patience.look)
            reloaded = await workload.reloader.reload(expected, patience.proof)
        told = asyncio.get_running_loop().time()
        self._take(place, await workload.prover.prove(expected, reloaded, baseline, patience.proof))
        return told

    async def _shows_already(self, place: int, expected: Expectation) -> bool:
        try:
            proof = await self._workloads[place].prover.prove(expected, ReloadAnswer(), None, self._patience.look)
        except (WorkloadAbsent, NotProven):
            return False  # it is told, and if that does not help either, reported
        self._take(place, proof)
        return True

    async def _bring_back(self, place: int, expected: Expectation) -> None:
        workload, patience = self._workloads[place], self._patience
        baseline = None if workload.target.shows else await workload.prover.baseline(patience.look)
        try:
            reloaded = await workload.reloader.reload(expected, patience.proof)
        except NotProven:
            if not workload.target.shows:
                raise
            reloaded = ReloadAnswer()  # what the server shows decides
        self._take(place, await workload.prover.prove(expected, reloaded, baseline, patience.proof))

    def _take(self, place: int, proof: Proof) -> None:
        target = self._workloads[place].target
        self.reports[place] = TargetReport(target.url, proof.level, proof.allowed, proof.detail)
        self._metrics.reloaded(target.name, proof.level.word)
        self.on_report(target.name, None)

    def _report(self, place: int, level: Level, why: WorkloadAbsent | NotProven) -> None:
        target = self._workloads[place].target
        self.reports[place] = TargetReport(target.url, level, target.allowed, str(why))
        self.on_report(target.name, why)
