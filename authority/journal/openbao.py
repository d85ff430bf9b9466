"""The journal in OpenBao's KV v2: one secret a record, written by compare-and-set where none stands.

Under ``<mount>/<prefix>/``, all of it readable with ``bao kv get``:

- ``journal/<position>`` is a record, field by field; a statement's holds ``ca.crt`` and ``bundle.note``;
- ``journal/folded-<through>`` lists which records up to ``through`` are still needed; the one with the highest number
  counts, the other records up to there are then deleted;
- ``epoch-<N>-<sequence>`` is the bundle of a statement once more, for people who look for an epoch: written after its
  record, completed by whoever reads, never read.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from authority.journal.codec import dump_record, load_record
from authority.journal.interface import JournalConflict, JournalError, unreadable_bundle
from authority.journal.record_types import Entry, Record, StatementRecord
from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import CasConflict, OpenBaoError
from authority.openbao.login import Json
from tidemark.bundle import CA_FILE, NOTE_FILE, StatementError
from tidemark.strict_json import FieldError, parse_object

T = TypeVar("T")

_RECORD = re.compile(r"\d{12}")
_FOLDED = re.compile(r"folded-(\d{12})")
_COPY = re.compile(r"epoch-\d+-\d+")
_AT_ONCE = 8


class OpenBaoJournal:
    """Implements ``Journal``; any number of replicas may hold it."""

    def __init__(self, client: OpenBaoClient, mount: str, prefix: str) -> None:
        self._client = client
        self._data = f"{mount}/data/{prefix}"
        self._metadata = f"{mount}/metadata/{prefix}"
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self) -> tuple[Entry, ...]:
        """Every record that still matters, in order."""
        return await self._in_openbao(self._read())

    async def head(self) -> int:
        """The last position."""
        return (await self._in_openbao(self._listing())).head

    async def append(self, position: int, record: Record) -> None:
        """Write the record at ``position``."""
        await self._in_openbao(self._append(position, record))

    async def fold(self, keep: tuple[Entry, ...], through: int) -> None:
        """Replace every record up to position ``through`` by those of ``keep``."""
        await self._in_openbao(self._fold([entry.position for entry in keep], through))

    async def _in_openbao(self, act: Awaitable[T]) -> T:
        try:
            return await act
        except OpenBaoError as error:
            raise JournalError(f"journal: {error}") from None

    async def _read(self) -> tuple[Entry, ...]:
        while True:
            listing = await self._listing()
            entries = await self._entries(listing)
            if entries is not None:
                await self._complete_copies(entries)
                return entries
            if await self._listing() == listing:
                raise JournalError(
                    f"{self._data}/journal: expected every record that its listing names, found one without its text; "
                    f"restore the journal from a backup"
                )
            # Folded between listing and reading: what is there now is whole again.

    async def _entries(self, listing: "_Listing") -> tuple[Entry, ...] | None:
        """The records that count; None where one of them is gone meanwhile."""
        kept: tuple[int, ...] = ()
        if listing.through:
            folded = await self._get(_folded(listing.through))
            if folded is None:
                return None
            kept = _positions(self._data, listing.through, folded)
        if later := listing.gap:
            raise JournalError(
                f"{self._data}/journal/{later:012d}: expected a record, found none though later ones stand; restore "
                f"the journal from a backup"
            )
        wanted = (*kept, *listing.later)
        found = await asyncio.gather(*(self._get(f"{position:012d}") for position in wanted))
        entries = []
        for position, text in zip(wanted, found, strict=True):
            if text is None:
                return None
            entries.append(Entry(position, self._loaded(position, text)))
        return tuple(entries)

    def _loaded(self, position: int, fields: Json) -> Record:
        try:
            return load_record(json.dumps(fields))
        except JournalError as error:
            name = f"{self._data}/journal/{position:012d}"
            raise JournalError(f"{name}: expected it as it was written; {error}; restore it from a backup") from None

    async def _append(self, position: int, record: Record) -> None:
        listing, name = await self._listing(), f"{position:012d}"
        if position <= listing.head:
            raise self._conflict(name)
        if position > listing.head + 1:
            raise JournalError(
                f"{self._data}/journal/{name}: expected to append at position {listing.head + 1}, found {position}"
            )
        try:
            await self._create(f"journal/{name}", json.loads(dump_record(record)))
        except CasConflict:
            raise self._conflict(name) from None
        if (await self._listing()).through >= position:
            # Between our look and our writing, others wrote this very position and folded it away.
            await self._client.delete(f"{self._metadata}/journal/{name}")
            raise self._conflict(name)
        await self._copy([Entry(position, record)])

    async def _fold(self, keep: Sequence[int], through: int) -> None:
        listing = await self._listing()
        if through > listing.through:
            body: Json = {"through": through, "keep": list(keep)}
            with suppress(CasConflict):  # another was faster: what it keeps counts, and is swept by
                await self._create(f"journal/{_folded(through)}", body)
        await self._sweep()

    async def _sweep(self) -> None:
        """Delete what the newest fold has replaced, and copies of bundles that no record names any more."""
        listing = await self._listing()
        if not listing.through:
            return
        folded = await self._get(_folded(listing.through))
        if folded is None:
            return  # a later fold is under way elsewhere; it sweeps as well
        kept = set(_positions(self._data, listing.through, folded))
        gone = [
            f"{position:012d}" for position in listing.positions if position <= listing.through and position not in kept
        ]
        gone += [_folded(through) for through in listing.folds if through < listing.through]
        await self._all(self._client.delete(f"{self._metadata}/journal/{name}") for name in gone)
        entries = await self._entries(listing)
        if entries is not None:
            stale = await self._copies() - set(_copies_of(entries))
            await self._all(self._client.delete(f"{self._metadata}/{name}") for name in sorted(stale))

    async def _complete_copies(self, entries: Iterable[Entry]) -> None:
        standing = await self._copies()
        await self._copy([entry for entry in entries if not standing & set(_copies_of([entry]))])

    async def _copy(self, entries: Sequence[Entry]) -> None:
        for name, body in _copies_of(entries).items():
            with suppress(CasConflict):  # it stands
                await self._create(name, body)

    async def _copies(self) -> set[str]:
        listed = await self._client.list(f"{self._metadata}/")
        return {name for name in listed.get("keys", []) if _COPY.fullmatch(name)}

    async def _create(self, name: str, data: Json) -> None:
        """Write a secret where none stands: never repeated, so that a conflict is always another's doing."""
        body = {"options": {"cas": 0}, "data": data}
        await self._client.write(f"{self._data}/{name}", body, repeatable=False)

    async def _get(self, name: str) -> Json | None:
        async with self._slots:
            answer = await self._client.read(f"{self._data}/journal/{name}")
        data = (answer or {}).get("data")
        return data if isinstance(data, dict) else None

    async def _all(self, acts: Iterable[Awaitable[None]]) -> None:
        for act in acts:
            await act

    async def _listing(self) -> "_Listing":
        listed = await self._client.list(f"{self._metadata}/journal/")
        return _Listing.of([str(name) for name in listed.get("keys", [])])

    def _conflict(self, name: str) -> JournalConflict:
        return JournalConflict(
            f"{self._data}/journal/{name}: expected to write this record first, found that another stands there"
        )


@dataclass(frozen=True, slots=True)
class _Listing:
    """The names in the journal: positions of records, and how far each fold goes; both rising."""

    positions: tuple[int, ...]
    folds: tuple[int, ...]

    @property
    def through(self) -> int:
        return self.folds[-1] if self.folds else 0

    @property
    def later(self) -> tuple[int, ...]:
        return tuple(position for position in self.positions if position > self.through)

    @property
    def head(self) -> int:
        return max(self.through, *self.positions[-1:], 0)

    @property
    def gap(self) -> int | None:
        """The first position after the fold that is missing though later ones stand."""
        expected = range(self.through + 1, self.head + 1)
        return next((position for position in expected if position not in self.later), None)

    @classmethod
    def of(cls, names: Iterable[str]) -> "_Listing":
        positions, folds = [], []
        for name in names:
            if _RECORD.fullmatch(name):
                positions.append(int(name))
            elif match := _FOLDED.fullmatch(name):
                folds.append(int(match[1]))
        return cls(tuple(sorted(positions)), tuple(sorted(folds)))


def _folded(through: int) -> str:
    return f"folded-{through:012d}"


def _positions(where: str, through: int, data: Json) -> tuple[int, ...]:
    """Which records a fold keeps. Raises JournalError."""
    try:
        fields = parse_object(json.dumps(data))
        found = fields.integer("through", least=1)
        keep = data.get("keep")
        if found != through or not isinstance(keep, list) or not all(type(p) is int and 0 < p <= through for p in keep):
            raise FieldError(f"expected positions up to {through} in 'keep', found others")
    except ValueError as error:
        raise JournalError(
            f"{where}/journal/{_folded(through)}: expected it as it was written; {error}; restore it from a backup"
        ) from None
    return tuple(sorted(keep))


def _copies_of(entries: Iterable[Entry]) -> dict[str, Json]:
    """Name and content of each statement's bundle. Raises JournalError."""
    copies = {}
    for entry in entries:
        if isinstance(entry.record, StatementRecord):
            bundle = entry.record.bundle
            try:
                statement, _ = bundle.unverified_statement()
            except StatementError as error:
                raise unreadable_bundle(entry.position, error) from None
            name = f"epoch-{statement.epoch}-{statement.sequence}"
            copies[name] = {CA_FILE: bundle.ca.decode(), NOTE_FILE: bundle.note.decode()}
    return copies
