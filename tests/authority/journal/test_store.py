"""The journal's store, which the controllers share."""

import asyncio

import pytest

from authority.journal.interface import JournalConflict, JournalError
from authority.journal.record_types import Entry
from authority.journal.store import JournalStore, NotLeading
from tests.harness.authority.journal_builder import EPOCH, START, running
from tests.harness.authority.memory_backends import Effects, How, MemoryJournal, Strike, When
from tests.harness.virtual_time import in_virtual_time


async def test_store_reads_again_only_a_moved_journal() -> None:
    builder, ca = running()
    journal = MemoryJournal()
    for entry in builder.entries:
        journal.put(entry.record)
    timeline = JournalStore(journal)
    assert await timeline.read() == builder.history
    first = timeline.history
    assert await timeline.read() is first
    builder.override(ca, START + 1)
    journal.put(builder.entries[-1].record)
    assert await timeline.read() == builder.history


async def test_watchers_are_notified_of_every_change() -> None:
    builder, ca = running()
    timeline = JournalStore(MemoryJournal())
    changed, other = timeline.watch(), timeline.watch()
    history = await timeline.append(await timeline.read(), builder.entries[0].record)
    assert changed.is_set()
    assert other.is_set()
    changed.clear()
    assert await timeline.read() is history
    assert not changed.is_set()
    assert [found.sha256 for found in history.cas] == [ca.sha256]


async def test_a_decision_on_an_older_history_is_refused() -> None:
    builder, ca = running()
    journal = MemoryJournal()
    timeline = JournalStore(journal)
    decided_on = await timeline.read()
    journal.put(builder.entries[0].record)
    with pytest.raises(JournalConflict, match="expected its head at 0, found it at 1"):
        await timeline.confirm(decided_on)
    with pytest.raises(JournalConflict):
        await timeline.append(decided_on, builder.entries[0].record)
    with pytest.raises(JournalConflict):
        await timeline.compact(decided_on, (), 1)
    await timeline.confirm(await timeline.read())
    assert timeline.history.cas[0].sha256 == ca.sha256


async def test_deposed_replica_neither_writes_nor_acts() -> None:
    builder, _ = running()
    journal, leads = MemoryJournal(), [True]
    timeline = JournalStore(journal, lambda: leads[-1])
    history = await timeline.append(await timeline.read(), builder.entries[0].record)
    leads.append(False)
    with pytest.raises(NotLeading):
        await timeline.confirm(history)
    with pytest.raises(NotLeading):
        await timeline.append(history, builder.entries[1].record)
    with pytest.raises(NotLeading):
        await timeline.compact(history, (), 1)
    assert (journal.last, journal.effects.names) == (1, ["append StatementRecord"])


@in_virtual_time
async def test_a_journal_that_shows_less_for_good_was_restored() -> None:
    builder, _ = running()
    journal = MemoryJournal()
    for entry in builder.entries:
        journal.put(entry.record)
    timeline = JournalStore(journal)
    history = await timeline.read()
    journal.records.pop(journal.last)
    journal.last -= 1
    with pytest.raises(JournalConflict):
        await timeline.confirm(history)
    assert (await timeline.read()).head == history.head - 1
    assert asyncio.get_running_loop().time() < 12


async def test_records_that_end_before_the_head_are_not_the_journal() -> None:
    class Torn(MemoryJournal):
        async def read(self) -> tuple[Entry, ...]:
            return (await super().read())[:-1]

    builder, _ = running()
    journal = Torn()
    for entry in builder.entries:
        journal.put(entry.record)
    timeline = JournalStore(journal)
    with pytest.raises(JournalError, match="expected records up to 2, found them up to 1"):
        await timeline.read()
    assert timeline.history.head == 0


@pytest.mark.parametrize(("when", "stands"), [(When.BEFORE, False), (When.AFTER, True)])
async def test_after_a_failed_append_it_looks_whether_the_record_stands(when: When, stands: bool) -> None:
    builder, _ = running()
    timeline = JournalStore(MemoryJournal(Effects(Strike(0, when, How.FAIL))))
    with pytest.raises(JournalError):
        await timeline.append(timeline.history, builder.entries[0].record)
    assert ((await timeline.read()).head == 1) is stands


async def test_compacted_journal_is_read_again_with_unchanged_head() -> None:
    builder, _ = running()
    for epoch in (EPOCH + 1, EPOCH + 2):
        builder.prepare(epoch, START + 12)
    journal = MemoryJournal()
    for entry in builder.entries:
        journal.put(entry.record)
    timeline = JournalStore(journal)
    history = await timeline.read()
    await timeline.compact(history, (history.entries[1],), through=3)
    assert [entry.position for entry in (await timeline.read()).entries] == [2, 4]
