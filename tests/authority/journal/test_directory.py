"""The directory journal: one writer wins, nothing is half there, folding loses nothing that counts."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from authority.journal.codec import dump_record, load_record
from authority.journal.directory import DirectoryJournal
from authority.journal.interface import JournalConflict, JournalError
from authority.journal.record_types import (
    ActivationRecord,
    Entry,
    LeafRecord,
    Opening,
    OverrideRecord,
    Record,
    StatementRecord,
    WithdrawalRecord,
)
from authority.journal.replay import replay
from authority.support import atomic_files
from tests.harness.authority.journal_builder import EPOCH, START, running
from tidemark.bundle import Cause

CA = "c" * 64
WITHDRAWAL = WithdrawalRecord(
    START, CA, Cause.ROLLBACK, urgent=True, automatic=False, who="ada", reason="nats-0 does not start with it"
)
OVERRIDE = OverrideRecord(START, CA, "ada", "the last agent is being repaired")
LEAF = LeafRecord(START, CA, "grace", ("grace.example.com", "::1"), "7f0a", "ada", "späte Fehlersuche")


def activation(at: int) -> ActivationRecord:
    return ActivationRecord(at, CA, Opening.DEADLINE, ("orders", "späte-app"), ("a" * 64,), left_behind=2)


def statement() -> StatementRecord:
    builder, _ = running()
    record = builder.entries[0].record
    assert isinstance(record, StatementRecord)
    return replace(record, who="ada", reason="a key may have leaked")


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def modes(directory: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in directory.iterdir()}


async def filled(directory: Path, count: int) -> DirectoryJournal:
    journal = DirectoryJournal(directory)
    for position in range(1, count + 1):
        await journal.append(position, activation(START + position))
    return journal


@pytest.mark.parametrize(
    "make", [statement, lambda: activation(START), lambda: OVERRIDE, lambda: WITHDRAWAL, lambda: LEAF]
)
def test_records_read_back_as_they_were_written(make: Callable[[], Record]) -> None:
    record = make()
    assert load_record(dump_record(record)) == record


def test_activation_record_without_left_behind_count_is_read() -> None:
    fields = json.loads(dump_record(activation(START)))
    del fields["left_behind"]
    assert load_record(json.dumps(fields)) == activation(START)


async def test_an_empty_journal(tmp_path: Path) -> None:
    journal = DirectoryJournal(tmp_path)
    assert await journal.head() == 0
    assert await journal.read() == ()


async def test_appended_records_are_read_in_order_by_another_process(tmp_path: Path) -> None:
    journal = DirectoryJournal(tmp_path)
    records: list[Record] = [statement(), activation(START), OVERRIDE]
    for position, record in enumerate(records, start=1):
        await journal.append(position, record)
        assert await journal.head() == position
    again = DirectoryJournal(tmp_path)
    assert await again.read() == tuple(Entry(position, record) for position, record in enumerate(records, start=1))
    assert modes(tmp_path) == {0o600}


async def test_a_taken_position_is_a_conflict_and_stays_as_it_is(tmp_path: Path) -> None:
    journal = await filled(tmp_path, 2)
    with pytest.raises(JournalConflict, match=r"000000000002\.json: expected to write this record first"):
        await journal.append(2, OVERRIDE)
    assert (await journal.read())[1].record == activation(START + 2)


async def test_of_many_writers_of_one_position_one_wins(tmp_path: Path) -> None:
    journals = [DirectoryJournal(tmp_path) for _ in range(8)]
    results = await asyncio.gather(
        *(journal.append(1, activation(START + number)) for number, journal in enumerate(journals)),
        return_exceptions=True,
    )
    assert len([result for result in results if isinstance(result, JournalConflict)]) == 7
    winner = results.index(None)
    assert (await journals[0].read()) == (Entry(1, activation(START + winner)),)


async def test_a_gap_is_refused_when_writing_and_named_when_reading(tmp_path: Path) -> None:
    journal = await filled(tmp_path, 3)
    with pytest.raises(JournalError, match="expected to append at position 4, found 6"):
        await journal.append(6, OVERRIDE)
    (tmp_path / "000000000002.json").unlink()
    with pytest.raises(JournalError, match=r"000000000002\.json: expected a record, found none though later ones"):
        await journal.read()


async def test_compaction_keeps_needed_records_in_place_and_removes_the_rest(tmp_path: Path) -> None:
    journal = await filled(tmp_path, 6)
    before = await journal.read()
    await journal.compact((before[1],), through=4)
    assert await journal.read() == (before[1], *before[4:])
    assert await journal.head() == 6
    assert sorted(files(tmp_path)) == [
        "000000000005.json",
        "000000000006.json",
        "snapshot-000000000004.json",
    ]
    with pytest.raises(JournalConflict):
        await journal.append(3, OVERRIDE)
    await journal.append(7, OVERRIDE)
    await journal.compact((before[1], before[5]), through=6)
    assert await journal.read() == (before[1], before[5], Entry(7, OVERRIDE))
    assert not (tmp_path / "snapshot-000000000004.json").exists()


async def test_fully_compacted_journal_keeps_its_head(tmp_path: Path) -> None:
    journal = await filled(tmp_path, 3)
    await journal.compact((), through=3)
    assert (await journal.head(), await journal.read()) == (3, ())


async def test_compaction_cut_short_by_crash_counts_and_next_one_cleans_up(tmp_path: Path) -> None:
    journal = await filled(tmp_path, 4)
    before = await journal.read()
    saved = files(tmp_path)
    await journal.compact((before[0],), through=3)
    for name, data in saved.items():  # killed after the snapshot was written, before anything was removed
        (tmp_path / name).write_bytes(data)
    assert await journal.read() == (before[0], before[3])
    await journal.compact((before[0],), through=3)
    assert sorted(files(tmp_path)) == ["000000000004.json", "snapshot-000000000003.json"]


async def test_older_compaction_never_replaces_newer_one(tmp_path: Path) -> None:
    journal = await filled(tmp_path, 5)
    before = await journal.read()
    await journal.compact((before[3],), through=4)
    await journal.compact((before[0],), through=2)
    assert await journal.read() == (before[3], before[4])


async def test_writer_paused_through_compaction_wins_no_compacted_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, leader = await filled(tmp_path, 1), DirectoryJournal(tmp_path)
    create_file = atomic_files.create_file

    async def lead() -> None:
        for position in (2, 3):
            await leader.append(position, activation(START + 100 + position))
        await leader.compact((), through=2)

    def overtaken(path: Path, data: bytes, mode: int) -> None:
        """The disk as the late writer finds it: others were faster since it looked."""
        monkeypatch.undo()
        asyncio.run(lead())
        create_file(path, data, mode)

    monkeypatch.setattr(atomic_files, "create_file", overtaken)
    with pytest.raises(JournalConflict):
        await late.append(2, OVERRIDE)
    assert await leader.read() == (Entry(3, activation(START + 103)),)
    assert not (tmp_path / "000000000002.json").exists()


async def test_unreadable_records_are_named(tmp_path: Path) -> None:
    journal = await filled(tmp_path, 2)
    path = tmp_path / "000000000002.json"
    good = json.loads(path.read_text())
    for broken, message in [
        ("{", "found text that is none"),
        (json.dumps(good | {"record": "election"}), "found 'election'; was the journal written by a later version"),
        (json.dumps(good | {"format": "tidemark/journal/v2"}), "expected tidemark/journal/v1"),
        (json.dumps(good | {"ca": "x"}), "field 'ca': expected 64 lower-case hex digits"),
        (json.dumps(good | {"at": "yesterday"}), "field 'at'"),
    ]:
        path.write_text(broken)
        with pytest.raises(JournalError, match=rf"000000000002\.json: expected it as it was written; .*{message}"):
            await journal.read()


async def test_record_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    journal = DirectoryJournal(tmp_path)
    with pytest.raises(JournalError, match="field 'reason': expected at most 4096 characters"):
        await journal.append(1, replace(OVERRIDE, reason="x" * 5000))
    assert await journal.head() == 0


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="missing: expected it to be read, found No such file or directory"):
        await DirectoryJournal(tmp_path / "missing").read()


async def test_leftovers_of_a_killed_writer_are_passed_over(tmp_path: Path) -> None:
    journal = await filled(tmp_path, 1)
    (tmp_path / ".000000000002.json.1234.tmp").write_text("{")
    assert len(await journal.read()) == 1
    await journal.append(2, OVERRIDE)


async def test_a_whole_history_survives_the_disk(tmp_path: Path) -> None:
    builder, first = running()
    second = builder.prepare(EPOCH + 1, START + 12)
    builder.activate(second, START + 20, skipped=(first,))
    journal = DirectoryJournal(tmp_path)
    for entry in builder.entries:
        await journal.append(entry.position, entry.record)
    assert replay(await journal.read()) == builder.history
