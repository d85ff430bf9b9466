"""The journal in OpenBao's KV v2 on the real server: compare-and-set, folds, and what people read with ``bao kv``."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from authority.journal.interface import JournalConflict, JournalError
from authority.journal.openbao import OpenBaoJournal
from authority.journal.record_types import NAMED, ActivationRecord, Entry, Opening, OverrideRecord, Record
from authority.journal.replay import replay
from authority.openbao.client import OpenBaoClient
from authority.openbao.login import Json, OpenBaoAccess
from tests.harness.authority.journal_builder import EPOCH, START, TRUST, JournalBuilder, running
from tests.harness.authority.memory_backends import Effects, How, Killed, Strike, When
from tests.harness.openbao.server import OpenBaoNamespace
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle
from tidemark.verify import reopen

CA = "c" * 64
OVERRIDE = OverrideRecord(START, CA, "ada", "späte Reparatur")


@pytest.fixture
async def place(empty_space: OpenBaoNamespace) -> OpenBaoNamespace:
    """A namespace with KV v2 and the authority's policy."""
    await empty_space.client.write("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    await empty_space.admit(empty_space.layout.policy())
    return empty_space


@pytest.fixture
async def client(place: OpenBaoNamespace) -> AsyncIterator[OpenBaoClient]:
    async with place.authority() as client:
        yield client


@pytest.fixture
def journal(client: OpenBaoClient) -> OpenBaoJournal:
    return journal_of(client)


def journal_of(client: OpenBaoClient) -> OpenBaoJournal:
    return OpenBaoJournal(client, "secret", "ca-bundles")


def activation(at: int) -> ActivationRecord:
    return ActivationRecord(at, CA, Opening.DEADLINE, ("orders", "späte-app"), ("a" * 64,), left_behind=2)


def rotations(count: int) -> JournalBuilder:
    """A deployment that has rotated so many times."""
    builder, _ = running()
    for epoch in range(EPOCH + 1, EPOCH + count):
        start = builder.clock.start(epoch)
        builder.activate(builder.prepare(epoch, start - builder.clock.prepare_seconds), start)
    return builder


async def append(journal: OpenBaoJournal, entries: Sequence[Entry]) -> None:
    for entry in entries:
        await journal.append(entry.position, entry.record)


async def names(place: OpenBaoNamespace, folder: str = "") -> set[str]:
    return set((await place.client.list(f"secret/metadata/ca-bundles/{folder}")).get("keys", []))


def positions(entries: Sequence[Entry]) -> list[int]:
    return [entry.position for entry in entries]


async def test_an_empty_journal(journal: OpenBaoJournal) -> None:
    assert await journal.head() == 0
    assert await journal.read() == ()


async def test_appended_records_are_read_in_order_by_another_process(
    journal: OpenBaoJournal, place: OpenBaoNamespace
) -> None:
    builder = rotations(2)
    records: list[Record] = [*(entry.record for entry in builder.entries), activation(START), OVERRIDE]
    entries = tuple(Entry(position, record) for position, record in enumerate(records, start=1))
    for entry in entries:
        await journal.append(entry.position, entry.record)
        assert await journal.head() == entry.position
    async with place.authority() as other:
        assert await journal_of(other).read() == entries
    assert replay(await journal.read()).newest == builder.history.newest


async def test_people_read_records_and_the_bundle_of_an_epoch_with_bao_kv_get(
    journal: OpenBaoJournal, place: OpenBaoNamespace
) -> None:
    builder = rotations(2)
    await append(journal, [*builder.entries, Entry(5, OVERRIDE)])
    listed = place.server.command("kv", "list", "-format=json", "secret/ca-bundles", namespace=place.namespace)
    assert json.loads(listed.stdout) == [f"epoch-{EPOCH}-1", f"epoch-{EPOCH + 1}-2", "journal/"]

    def get(*arguments: str) -> str:
        return place.server.command("kv", "get", *arguments, namespace=place.namespace).stdout

    path = f"secret/ca-bundles/epoch-{EPOCH + 1}-2"
    pem, note = (get(f"-field={field}", path) for field in (CA_FILE, NOTE_FILE))
    newest = builder.history.newest
    assert newest is not None
    # Byte for byte, so that what is written to files this way can be verified.
    assert (pem.encode(), note.encode()) == (newest.bundle.ca, newest.bundle.note)
    data = json.loads(get("-format=json", path))["data"]["data"]
    assert reopen(Bundle(data[CA_FILE].encode(), data[NOTE_FILE].encode()), TRUST).sequence == 2
    override = json.loads(get("-format=json", "secret/ca-bundles/journal/000000000005"))["data"]["data"]
    assert (override["record"], override["who"], override["reason"]) == ("override", "ada", "späte Reparatur")


async def test_openbao_takes_an_activation_that_leaves_a_large_fleet_behind(journal: OpenBaoJournal) -> None:
    """It refuses JSON of more than a thousand texts."""
    longest = [f"{'n' * 63}/{number:0253d}" for number in range(NAMED)]
    largest = replace(activation(START), unproven=tuple(longest), skipped=("a" * 64,) * 64, left_behind=10_000)
    await journal.append(1, largest)
    assert await journal.read() == (Entry(1, largest),)


async def test_a_taken_position_is_a_conflict_and_stays_as_it_is(journal: OpenBaoJournal) -> None:
    await append(journal, [Entry(1, activation(START)), Entry(2, activation(START + 2))])
    with pytest.raises(JournalConflict, match=r"journal/000000000002: expected to write this record first"):
        await journal.append(2, OVERRIDE)
    assert (await journal.read())[1].record == activation(START + 2)


async def test_of_many_writers_of_one_position_one_wins(place: OpenBaoNamespace, client: OpenBaoClient) -> None:
    async with place.authority() as other:
        journals = [journal_of(each) for each in (client, other) * 3]
        results = await asyncio.gather(
            *(journal.append(1, activation(START + number)) for number, journal in enumerate(journals)),
            return_exceptions=True,
        )
        assert len([result for result in results if isinstance(result, JournalConflict)]) == 5
        winner = results.index(None)
        for journal in journals[:2]:
            assert await journal.read() == (Entry(1, activation(START + winner)),)


class Overtaken(OpenBaoClient):
    """Between a look at the journal and the next write, another writer appends (and may fold)."""

    access: OpenBaoAccess
    others: list[Entry]
    fold_through = 0

    async def write(self, path: str, body: Json, *, repeatable: bool = True) -> Json:
        others, self.others = self.others, []
        if others:
            async with OpenBaoClient(self.access) as client:
                await append(journal_of(client), others)
                if self.fold_through:
                    await journal_of(client).compact((), self.fold_through)
        return await super().write(path, body, repeatable=repeatable)


def overtaken(place: OpenBaoNamespace, others: Sequence[Entry], fold_through: int = 0) -> Overtaken:
    assert place.login is not None
    access = place.access(place.login)
    late = Overtaken(access)
    late.access, late.others, late.fold_through = access, list(others), fold_through
    return late


async def test_the_server_refuses_a_late_writer(place: OpenBaoNamespace) -> None:
    async with overtaken(place, [Entry(1, OVERRIDE)]) as late:
        with pytest.raises(JournalConflict, match="expected to write this record first"):
            await journal_of(late).append(1, activation(START))
        assert await journal_of(late).read() == (Entry(1, OVERRIDE),)


async def test_writer_paused_through_compaction_wins_no_compacted_position(
    place: OpenBaoNamespace,
) -> None:
    others = [Entry(position, activation(START + position)) for position in (1, 2, 3)]
    async with overtaken(place, others, fold_through=2) as late:
        with pytest.raises(JournalConflict):
            await journal_of(late).append(1, OVERRIDE)
        assert await journal_of(late).read() == (others[2],)
    assert await names(place, "journal/") == {"000000000003", "folded-000000000002"}


async def test_a_gap_is_refused_when_writing_and_named_when_reading(
    journal: OpenBaoJournal, place: OpenBaoNamespace
) -> None:
    await append(journal, [Entry(position, activation(START + position)) for position in (1, 2, 3)])
    with pytest.raises(JournalError, match="expected to append at position 4, found 6"):
        await journal.append(6, OVERRIDE)
    await place.client.delete("secret/metadata/ca-bundles/journal/000000000002")
    with pytest.raises(JournalError, match=r"journal/000000000002: expected a record, found none though later ones"):
        await journal.read()


async def test_compaction_keeps_needed_records_in_place_and_removes_the_rest(
    journal: OpenBaoJournal, place: OpenBaoNamespace
) -> None:
    builder = rotations(3)
    await append(journal, builder.entries)
    await journal.compact((builder.entries[2],), through=4)
    assert await journal.read() == (builder.entries[2], *builder.entries[4:])
    assert await journal.head() == 6
    assert await names(place, "journal/") == {
        *("000000000003", "000000000005", "000000000006"),
        "folded-000000000004",
    }
    assert await names(place) == {f"epoch-{EPOCH + 1}-2", f"epoch-{EPOCH + 2}-3", "journal/"}
    with pytest.raises(JournalConflict):
        await journal.append(2, OVERRIDE)
    await journal.append(7, OVERRIDE)
    await journal.compact((), through=6)
    assert (await journal.read(), await journal.head()) == ((Entry(7, OVERRIDE),), 7)
    await journal.compact((), through=7)
    assert (await journal.read(), await journal.head()) == ((), 7)
    assert (await names(place), await names(place, "journal/")) == ({"journal/"}, {"folded-000000000007"})


async def test_older_compaction_never_replaces_newer_one(journal: OpenBaoJournal) -> None:
    entries = [Entry(position, activation(START + position)) for position in range(1, 6)]
    await append(journal, entries)
    await journal.compact((entries[3],), through=4)
    await journal.compact((entries[0],), through=2)
    assert positions(await journal.read()) == [4, 5]


async def test_crash_in_append_leaves_record_whole_or_absent(place: OpenBaoNamespace) -> None:
    builder, effects = rotations(1), Effects()
    async with place.struck(effects) as undisturbed:
        await append(journal_of(undisturbed), builder.entries[:1])
    assert effects.names == [
        "write secret/data/ca-bundles/journal/000000000001 statement",
        f"write secret/data/ca-bundles/epoch-{EPOCH}-1",
    ]
    for number, when in [(0, When.BEFORE), (0, When.AFTER), (1, When.BEFORE), (1, When.AFTER)]:
        await clear(place)
        async with place.struck(Effects(Strike(number, when, How.KILL))) as dying:
            with pytest.raises(Killed):
                await append(journal_of(dying), builder.entries[:1])
        stands = (number, when) != (0, When.BEFORE)
        async with place.authority() as client:
            assert positions(await journal_of(client).read()) == [1] * stands
            assert await names(place) == ({f"epoch-{EPOCH}-1", "journal/"} if stands else set())


async def clear(place: OpenBaoNamespace) -> None:
    for folder in ("", "journal/"):
        for name in await names(place, folder):
            await place.client.delete(f"secret/metadata/ca-bundles/{folder}{name}")


async def test_crash_in_compaction_loses_nothing_and_next_one_cleans_up(place: OpenBaoNamespace) -> None:
    builder, effects = rotations(3), Effects()
    keep = (builder.entries[3],)

    async def fold_by(client: OpenBaoClient) -> None:
        await journal_of(client).compact((), through=1)
        await journal_of(client).compact(keep, through=5)

    async with place.authority() as client, place.struck(effects) as undisturbed:
        await append(journal_of(client), builder.entries)
        await fold_by(undisturbed)
        ended = (await journal_of(client).read(), await names(place), await names(place, "journal/"))
        assert [name.split("/")[-1] for name in effects.names] == [
            *("folded-000000000001", "000000000001", f"epoch-{EPOCH}-1"),
            *("folded-000000000005", "000000000002", "000000000003", "000000000005", "folded-000000000001"),
            *(f"epoch-{EPOCH + 1}-2", f"epoch-{EPOCH + 2}-3"),
        ]
        assert positions(ended[0]) == [4, 6]
        for number in range(len(effects.names)):
            for when in When:
                await clear(place)
                await append(journal_of(client), builder.entries)
                async with place.struck(Effects(Strike(number, when, How.KILL))) as dying:
                    with pytest.raises(Killed):
                        await fold_by(dying)
                left = await journal_of(client).read()
                assert set(left) >= set(ended[0])
                assert await journal_of(client).head() == 6
                await fold_by(client)
                assert (await journal_of(client).read(), await names(place), await names(place, "journal/")) == ended


async def test_reader_overtaken_by_compaction_reads_again(place: OpenBaoNamespace) -> None:
    entries = [Entry(position, activation(START + position)) for position in (1, 2, 3)]
    assert place.login is not None
    access = place.access(place.login)

    class Slow(OpenBaoClient):
        """After its listing, the journal is folded."""

        folded = False

        async def list(self, path: str) -> Json:
            listed = await super().list(path)
            if path.endswith("journal/") and not self.folded:
                self.folded = True
                async with OpenBaoClient(access) as other:
                    await journal_of(other).compact((entries[1],), through=2)
            return listed

    async with place.authority() as client, Slow(access) as slow:
        await append(journal_of(client), entries)
        assert await journal_of(slow).read() == tuple(entries[1:])
        assert slow.folded


async def test_unreadable_records_are_named(journal: OpenBaoJournal, place: OpenBaoNamespace) -> None:
    await append(journal, [Entry(1, activation(START)), Entry(2, OVERRIDE)])
    path = "secret/data/ca-bundles/journal/000000000002"
    good = ((await place.client.read(path)) or {})["data"]
    for broken, message in [
        ({}, "field 'format'"),
        (good | {"record": "colour"}, "found 'colour'; was the journal written by a later version"),
        (good | {"ca": "x"}, "field 'ca': expected 64 lower-case hex digits"),
    ]:
        await place.client.write(path, {"data": broken})
        with pytest.raises(JournalError, match=rf"journal/000000000002: expected it as it was written; .*{message}"):
            await journal.read()
    await place.client.write(path, {"data": good})
    await journal.compact((), through=1)
    await place.client.write("secret/data/ca-bundles/journal/folded-000000000001", {"data": {"through": 1, "keep": 7}})
    with pytest.raises(JournalError, match=r"journal/folded-000000000001: expected it as it was written; .*'keep'"):
        await journal.read()


async def test_record_with_deleted_text_is_named(journal: OpenBaoJournal, place: OpenBaoNamespace) -> None:
    await append(journal, [Entry(1, activation(START)), Entry(2, OVERRIDE)])
    await place.client.delete("secret/data/ca-bundles/journal/000000000001")  # the newest version, as 'bao kv delete'
    with pytest.raises(JournalError, match="expected every record that its listing names, found one without its text"):
        await journal.read()


async def test_record_that_could_not_be_read_back_is_not_written(journal: OpenBaoJournal) -> None:
    with pytest.raises(JournalError, match="field 'reason': expected at most 4096 characters"):
        await journal.append(1, replace(OVERRIDE, reason="x" * 5000))
    assert await journal.head() == 0


async def test_a_missing_permission_is_named(place: OpenBaoNamespace) -> None:
    await place.admit('path "secret/metadata/*" { capabilities = ["list"] }')
    async with place.authority() as client:
        with pytest.raises(JournalError, match=r"allow 'create or update' on 'secret/data/ca-bundles/journal/0{11}1'"):
            await journal_of(client).append(1, OVERRIDE)
