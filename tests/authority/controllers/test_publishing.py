"""A publisher of several targets in the sequencer: what one of them shows is acted on, whatever the others come to."""

import asyncio
from dataclasses import dataclass

from authority.controllers.rotation_steps.recovery import READ_SECONDS
from authority.publishers.interface import PublishError, PublishOutcome, PublishResult, TargetContents, side_by_side
from authority.rotation.actions import Step
from authority.rotation.events import (
    HigherStatementFound,
    Prepared,
    Published,
    StepFailed,
)
from tests.harness.authority.harness import AuthorityHarness, alive
from tests.harness.authority.journal_builder import EPOCH, START, running
from tests.harness.authority.memory_backends import (
    MemoryPublisher,
)
from tests.harness.virtual_time import in_virtual_time
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


@in_virtual_time
async def test_a_target_ahead_is_caught_up_with_while_another_fails() -> None:
    broken, ahead = MemoryPublisher("broken"), MemoryPublisher("ahead")
    harness = AuthorityHarness(publishers=[Cluster([broken, ahead])])
    harness.boot()
    await harness.until(START + 1)
    broken.is_down, ahead.bundle = True, fourth()
    await harness.until(START + 9)
    (surpassed,) = harness.of(HigherStatementFound)
    assert (surpassed.target, surpassed.sequence, surpassed.newer) == ("cluster", 1, ("ahead",))
    assert [e.sequence for e in harness.of(Prepared)] == [1, 5]
    assert (harness.target.sequence, ahead.sequence) == (5, 5)
    failures = harness.of(StepFailed)
    assert {(e.step, e.target, e.error) for e in failures} == {
        (Step.PUBLISH, "cluster", "broken: down"),
        (Step.RESUME, "cluster", "broken: down"),
    }
    state = harness.rotation.targets["cluster"]
    assert (state.outcome, state.error, state.newer) == (None, "broken: down", ())
    await harness.stop()


@in_virtual_time
async def test_a_target_ahead_is_named_where_another_is_written_in_the_same_look() -> None:
    fresh, ahead = MemoryPublisher("fresh"), MemoryPublisher("ahead")
    harness = AuthorityHarness(publishers=[Cluster([fresh, ahead])])
    harness.boot()
    await harness.until(START + 1)
    fresh.bundle, ahead.bundle = None, fourth()
    await harness.until(START + 9)
    assert [e.newer for e in harness.of(HigherStatementFound)] == [("ahead",)]
    outcomes = [e.outcome for e in harness.of(Published, lambda e: e.target == "cluster")]
    assert outcomes[:2] == [PublishOutcome.WRITTEN, PublishOutcome.NEWER]
    assert (harness.target.sequence, fresh.sequence, ahead.sequence) == (5, 5, 5)
    await harness.stop()


@alive
async def test_target_that_stays_ahead_is_reported_once(harness: AuthorityHarness) -> None:
    """Its note is ours and counts; what lies beside it cannot be gone on from."""
    await harness.until(START + 1)
    stuck = Cluster([Ahead("ahead")])
    harness.publishers.append(stuck)
    await harness.stop()
    harness.boot()
    await harness.until(START + 9)
    assert [(e.target, e.newer) for e in harness.of(HigherStatementFound)] == [("cluster", ("ahead",))]
    state = harness.rotation.targets["cluster"]
    assert (state.outcome, state.error, state.newer) == (PublishOutcome.NEWER, "", ("ahead",))


@alive
async def test_publishing_is_announced_before_the_write_and_only_by_the_leader(harness: AuthorityHarness) -> None:
    announced_at_write: list[str] = []
    harness.target.on_write = lambda _: announced_at_write.append(harness.publishing[-1])
    await harness.settle()
    assert announced_at_write == [harness.target.digest]
    deposed = harness.depose()
    harness.publishing.clear()
    harness.target.bundle = None
    await asyncio.sleep(11)
    assert (harness.publishing, harness.target.bundle) == ([], None)
    deposed.cancel()
    await asyncio.gather(deposed, return_exceptions=True)


class Ahead(MemoryPublisher):
    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        return PublishResult(newer=(self.name,))


@in_virtual_time
async def test_a_failing_target_holds_up_neither_the_others_nor_the_rotation() -> None:
    broken = MemoryPublisher("broker", is_down=True)
    stuck = MemoryPublisher("stuck", is_hanging=True)
    harness = AuthorityHarness(publishers=[broken, stuck])
    harness.boot()
    await harness.sleep(READ_SECONDS + 1)  # the start waited for the one that does not answer, and no longer
    assert harness.target.sequence == 1
    await harness.until(START + 50)
    assert harness.target.sequence == 3
    failures = harness.of(StepFailed, lambda e: e.step is Step.PUBLISH)
    assert {e.target for e in failures} == {"broker"}
    assert [e.retry_in for e in failures[:5]] == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert "down" in harness.rotation.targets["broker"].error
    broken.is_down = False
    await harness.sleep(6)
    assert broken.sequence == harness.target.sequence == 4
    assert harness.rotation.targets["broker"].error == ""
    await harness.stop()


@alive
async def test_deleted_edited_or_rolled_back_target_is_written_again(harness: AuthorityHarness) -> None:
    await harness.until(START + 13)
    newest = harness.target.bundle
    assert newest is not None
    first = harness.journal_store.history.statements[0].bundle
    for second, found in enumerate([None, Bundle(newest.ca + b"#\n", newest.note), first]):
        harness.target.bundle = found
        await harness.sleep(6 if second else 5)
        assert harness.target.bundle == newest


@alive
async def test_unchanged_targets_are_reported_once_for_each_statement(harness: AuthorityHarness) -> None:
    await harness.settle()
    await harness.stop()
    harness.events.clear()
    harness.boot()
    await harness.until(START + 11)
    assert [(e.sequence, e.outcome) for e in harness.of(Published)] == [(1, PublishOutcome.UNCHANGED)]
    assert harness.target.tries > 3
