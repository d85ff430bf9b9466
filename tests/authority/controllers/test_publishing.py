"""A publisher of several targets in the sequencer: what one of them shows is acted on, whatever the others come to."""

import asyncio
from dataclasses import dataclass

from authority.publishers.interface import PublishError, PublishOutcome, PublishResult, TargetContents, side_by_side
from authority.rotation.actions import Step
from authority.rotation.events import HigherStatementFound, Prepared, Published, StepFailed
from tests.harness import virtual_time
from tests.harness.authority.harness import AuthorityHarness, alive
from tests.harness.authority.journal_builder import EPOCH, START, running
from tests.harness.authority.memory_backends import MemoryPublisher
from tidemark.bundle import Bundle, Cause
from tidemark.verify import VerifiedBundle


@dataclass
class Cluster:
    """Several targets behind one publisher, as namespaces are."""

    targets: list[MemoryPublisher]
    name: str = "cluster"

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        async def bring(target: MemoryPublisher) -> PublishOutcome:
            return (await target.publish(bundle)).outcome

        return await side_by_side({target.name: bring(target) for target in self.targets})

    async def read(self) -> tuple[TargetContents, ...]:
        shown: list[TargetContents] = []
        for target in self.targets:
            try:
                shown += await target.read()
            except PublishError as error:
                shown.append(TargetContents(target.name, None, str(error)))
        return tuple(shown)

    def watch(self, changed: asyncio.Event) -> None:
        pass


def fourth() -> Bundle:
    """What another authority with our keys has written meanwhile."""
    other, _ = running()
    for _ in range(3):
        other.prepare(EPOCH, START + 1, Cause.FORCED)
    assert other.history.newest is not None
    return other.history.newest.bundle


def test_a_target_ahead_is_caught_up_with_while_another_fails() -> None:
    async def main() -> None:
        broken, ahead = MemoryPublisher("broken"), MemoryPublisher("ahead")
        machine = AuthorityHarness(publishers=[Cluster([broken, ahead])])
        machine.boot()
        await machine.until(START + 1)
        broken.is_down, ahead.bundle = True, fourth()
        await machine.until(START + 9)
        (surpassed,) = machine.of(HigherStatementFound)
        assert (surpassed.target, surpassed.sequence, surpassed.newer) == ("cluster", 1, ("ahead",))
        assert [e.sequence for e in machine.of(Prepared)] == [1, 5]
        assert (machine.target.sequence, ahead.sequence) == (5, 5)
        failures = machine.of(StepFailed)
        assert {(e.step, e.target, e.error) for e in failures} == {
            (Step.PUBLISH, "cluster", "broken: down"),
            (Step.RESUME, "cluster", "broken: down"),
        }
        state = machine.rotation.targets["cluster"]
        assert (state.outcome, state.error, state.newer) == (None, "broken: down", ())
        await machine.stop()

    virtual_time.run(main())


def test_a_target_ahead_is_named_where_another_is_written_in_the_same_look() -> None:
    async def main() -> None:
        fresh, ahead = MemoryPublisher("fresh"), MemoryPublisher("ahead")
        machine = AuthorityHarness(publishers=[Cluster([fresh, ahead])])
        machine.boot()
        await machine.until(START + 1)
        fresh.bundle, ahead.bundle = None, fourth()
        await machine.until(START + 9)
        assert [e.newer for e in machine.of(HigherStatementFound)] == [("ahead",)]
        outcomes = [e.outcome for e in machine.of(Published, lambda e: e.target == "cluster")]
        assert outcomes[:2] == [PublishOutcome.WRITTEN, PublishOutcome.NEWER]
        assert (machine.target.sequence, fresh.sequence, ahead.sequence) == (5, 5, 5)
        await machine.stop()

    virtual_time.run(main())


@alive
async def test_target_that_stays_ahead_is_reported_once(machine: AuthorityHarness) -> None:
    """Its note is ours and counts; what lies beside it cannot be gone on from."""
    await machine.until(START + 1)
    stuck = Cluster([Ahead("ahead")])
    machine.publishers.append(stuck)
    await machine.stop()
    machine.boot()
    await machine.until(START + 9)
    assert [(e.target, e.newer) for e in machine.of(HigherStatementFound)] == [("cluster", ("ahead",))]
    state = machine.rotation.targets["cluster"]
    assert (state.outcome, state.error, state.newer) == (PublishOutcome.NEWER, "", ("ahead",))


@alive
async def test_publishing_is_announced_before_the_write_and_only_by_the_leader(machine: AuthorityHarness) -> None:
    announced_at_write: list[str] = []
    machine.target.on_write = lambda _: announced_at_write.append(machine.publishing[-1])
    await machine.settle()
    assert announced_at_write == [machine.target.digest]
    deposed = machine.depose()
    machine.publishing.clear()
    machine.target.bundle = None
    await asyncio.sleep(11)
    assert (machine.publishing, machine.target.bundle) == ([], None)
    deposed.cancel()
    await asyncio.gather(deposed, return_exceptions=True)


class Ahead(MemoryPublisher):
    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        return PublishResult(newer=(self.name,))
