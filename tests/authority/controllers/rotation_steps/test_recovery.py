"""Recovery at a start: the journal continues above what the targets show."""

from authority.journal.record_types import (
    Opening,
)
from authority.rotation.actions import Step
from authority.rotation.events import (
    Activated,
    Prepared,
    StepFailed,
)
from tests.harness.authority.harness import AuthorityHarness
from tests.harness.authority.journal_builder import DOMAIN, EPOCH, PLAYGROUND, START, JournalBuilder, running
from tests.harness.authority.memory_backends import (
    MemoryPublisher,
    statement_of,
)
from tests.harness.virtual_time import in_virtual_time
from tidemark.bundle import Cause
from tidemark.note import Signer


@in_virtual_time
async def test_lost_journal_continues_above_highest_target() -> None:
    harness = AuthorityHarness()
    lost, _ = running()
    for epoch in range(EPOCH + 1, EPOCH + 4):
        lost.prepare(epoch, PLAYGROUND.clock.prepare_at(epoch))
    newest = lost.history.newest
    assert newest is not None
    harness.target.bundle = newest.bundle
    harness.began = START + 62
    harness.boot()
    await harness.settle()
    assert [(e.sequence, e.epoch - EPOCH) for e in harness.of(Prepared)] == [(5, 3)]
    assert harness.target.sequence == 5
    statement = statement_of(harness.target.bundle)
    assert statement.previous == newest.digest
    carried = {anchor.sha256 for anchor in statement.intermediates}
    assert {anchor.sha256 for anchor in newest.statement.intermediates} < carried
    assert [e.opening for e in harness.of(Activated)] == [Opening.BOOTSTRAP]
    await harness.stop()


@in_virtual_time
async def test_target_found_ahead_is_caught_up_with() -> None:
    harness = AuthorityHarness()
    lost, _ = running()
    for _ in range(3):
        lost.prepare(EPOCH, START + 1, Cause.FORCED)
    newest = lost.history.newest
    assert newest is not None
    ahead = MemoryPublisher("broker", is_down=True, bundle=newest.bundle)
    harness.publishers.append(ahead)
    harness.boot()
    await harness.until(START + 2)
    assert harness.target.sequence == 1
    ahead.is_down = False
    await harness.until(START + 9)
    assert [(e.sequence, e.epoch) for e in harness.of(Prepared)] == [(1, EPOCH), (5, EPOCH)]
    assert (harness.target.sequence, ahead.sequence) == (5, 5)
    trusted = {anchor.sha256 for anchor in harness.journal_store.history.statements[-1].statement.intermediates}
    assert {anchor.sha256 for anchor in newest.statement.intermediates} < trusted
    assert {ca.sha256 for ca in harness.journal_store.history.cas} == trusted
    await harness.stop()


@in_virtual_time
async def test_statement_signed_by_stranger_is_reported_and_overwritten() -> None:
    stranger = JournalBuilder(signer=Signer.generate(f"{DOMAIN}/stranger"))
    stranger.prepare(EPOCH, START)
    stranger.prepare(EPOCH, START)
    forged = stranger.history.newest
    assert forged is not None
    harness = AuthorityHarness()
    harness.target.bundle = forged.bundle
    harness.boot()
    await harness.settle()
    (failed,) = harness.of(StepFailed)
    assert (failed.step, failed.target) == (Step.RESUME, "mounts")
    assert "signature" in failed.error
    assert [e.sequence for e in harness.of(Prepared)] == [1]
    await harness.stop()
