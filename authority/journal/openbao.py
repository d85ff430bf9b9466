"""The journal in OpenBao's KV v2: one secret a record, written by compare-and-set where none stands.

Under ``<mount>/<prefix>/``, all of it readable with ``bao kv get``:

- ``journal/<position>`` is a record, field by field; a statement's holds ``ca.crt`` and ``bundle.note``;
- ``journal/folded-<through>`` is a compaction: it lists which records up to ``through`` are still needed. The one with
  the highest number counts; the other records up to there are then deleted;
- ``epoch-<N>-<sequence>`` is a copy of a statement's bundle (``authority.journal.bundle_copies``).
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from authority.journal.bundle_copies import BundleCopies
from authority.journal.codec import dump_record, load_record
from authority.journal.interface import JournalConflict, JournalError
from authority.journal.record_types import Entry, Record
from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import CasConflict, OpenBaoError
from authority.openbao.kv import KvSecrets
from authority.openbao.login import Json
from tidemark.strict_json import FieldError, parse_object

T = TypeVar("T")

_RECORD = re.compile(r"\d{12}")
_COMPACTION = re.compile(r"folded-(\d{12})")


class OpenBaoJournal:
    """Implements ``Journal``; any number of replicas may use it at once."""

    def __init__(self, client: OpenBaoClient, mount: str, prefix: str) -> None:
        self._secrets = KvSecrets(client, mount, prefix)
        self._copies = BundleCopies(self._secrets)

    async def read(self) -> tuple[Entry, ...]:
        """Every record that still matters, in order."""
        return await self._translate_error(self._read())

    async def head(self) -> int:
        """The last position."""
        return (await self._translate_error(self._listing())).head

    async def append(self, position: int, record: Record) -> None:
        """Write the record at ``position``."""
        await self._translate_error(self._append(position, record))

    async def compact(self, keep: tuple[Entry, ...], through: int) -> None:
        """Replace every record up to position ``through`` by those of ``keep``."""
        await self._translate_error(self._compact([entry.position for entry in keep], through))

    async def _translate_error(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except OpenBaoError as error:
            raise JournalError(f"journal: {error}") from None

    async def _read(self) -> tuple[Entry, ...]:
        while True:
            listing = await self._listing()
            entries = await self._entries(listing)
            if entries is not None:
                await self._copies.complete(entries)
                return entries
            if await self._listing() == listing:
                raise JournalError(
                    f"{self._path('')}: expected every record that its listing names, found one without its text; "
                    f"restore the journal from a backup"
                )
            # Compacted between the listing and the reads: what is there now is whole again.

    async def _entries(self, listing: "_Listing") -> tuple[Entry, ...] | None:
        """The records that count; None where one of them was deleted since the listing."""
        kept: tuple[int, ...] = ()
        if listing.through:
            kept_or_gone = await self._kept_positions(listing.through)
            if kept_or_gone is None:
                return None
            kept = kept_or_gone
        if missing := listing.gap:
            raise JournalError(
                f"{self._path(f'{missing:012d}')}: expected a record, found none though later ones stand; restore "
                f"the journal from a backup"
            )
        wanted = (*kept, *listing.later)
        found = await asyncio.gather(*(self._secrets.read(f"journal/{position:012d}") for position in wanted))
        entries = []
        for position, fields in zip(wanted, found, strict=True):
            if fields is None:
                return None
            entries.append(Entry(position, self._parse(position, fields)))
        return tuple(entries)

    def _parse(self, position: int, fields: Json) -> Record:
        try:
            return load_record(json.dumps(fields))
        except JournalError as error:
            path = self._path(f"{position:012d}")
            raise JournalError(f"{path}: expected it as it was written; {error}; restore it from a backup") from None

    async def _append(self, position: int, record: Record) -> None:
        listing, name = await self._listing(), f"{position:012d}"
        if position <= listing.head:
            raise self._conflict(name)
        if position > listing.head + 1:
            raise JournalError(
                f"{self._path(name)}: expected to append at position {listing.head + 1}, found {position}"
            )
        try:
            await self._secrets.create(f"journal/{name}", json.loads(dump_record(record)))
        except CasConflict:
            raise self._conflict(name) from None
        # Listed once more after the write: between our listing and our write, others may have written this position
        # and compacted it away. Then the secret did not stand, and the compare-and-set could not see the conflict.
        if (await self._listing()).through >= position:
            await self._secrets.delete(f"journal/{name}")
            raise self._conflict(name)
        # The copy is written last: the record alone is the commit point.
        await self._copies.write([Entry(position, record)])

    async def _compact(self, keep: Sequence[int], through: int) -> None:
        listing = await self._listing()
        if through > listing.through:
            body: Json = {"through": through, "keep": list(keep)}
            with suppress(CasConflict):  # another replica was faster: its list counts, also for the deletion below
                await self._secrets.create(f"journal/{_compaction(through)}", body)
        await self._delete_replaced()

    async def _delete_replaced(self) -> None:
        """Delete what the newest compaction has replaced, and copies of bundles that no record names any more."""
        listing = await self._listing()
        if not listing.through:
            return
        kept = await self._kept_positions(listing.through)
        if kept is None:
            return  # a later compaction is under way elsewhere; it deletes as well
        gone = [
            f"{position:012d}" for position in listing.positions if position <= listing.through and position not in kept
        ]
        gone += [_compaction(through) for through in listing.compactions if through < listing.through]
        for name in gone:
            await self._secrets.delete(f"journal/{name}")
        entries = await self._entries(listing)
        if entries is not None:
            await self._copies.prune(entries)

    async def _kept_positions(self, through: int) -> tuple[int, ...] | None:
        """Which records a compaction keeps; None where a later one has replaced it. Raises JournalError."""
        data = await self._secrets.read(f"journal/{_compaction(through)}")
        if data is None:
            return None
        try:
            fields = parse_object(json.dumps(data))
            found, keep = fields.integer("through", least=1), data.get("keep")
            is_list = isinstance(keep, list) and all(type(p) is int and 0 < p <= through for p in keep)
            if found != through or not is_list:
                raise FieldError(f"expected positions up to {through} in 'keep', found others")
        except ValueError as error:
            path = self._path(_compaction(through))
            raise JournalError(f"{path}: expected it as it was written; {error}; restore it from a backup") from None
        return tuple(sorted(data["keep"]))

    async def _listing(self) -> "_Listing":
        return _Listing.of(await self._secrets.names("journal/"))

    def _conflict(self, name: str) -> JournalConflict:
        return JournalConflict(
            f"{self._path(name)}: expected to write this record first, found that another stands there"
        )

    def _path(self, name: str) -> str:
        return f"{self._secrets.data_path}/journal/{name}".rstrip("/")


@dataclass(frozen=True, slots=True)
class _Listing:
    """The names in the journal."""

    positions: tuple[int, ...]
    """Positions of records, rising."""

    compactions: tuple[int, ...]
    """The last position that each compaction covers, rising."""

    @property
    def through(self) -> int:
        return self.compactions[-1] if self.compactions else 0

    @property
    def later(self) -> tuple[int, ...]:
        return tuple(position for position in self.positions if position > self.through)

    @property
    def head(self) -> int:
        return max(self.through, *self.positions[-1:], 0)

    @property
    def gap(self) -> int | None:
        """The first position after the compaction that is missing though later ones stand."""
        expected = range(self.through + 1, self.head + 1)
        return next((position for position in expected if position not in self.later), None)

    @classmethod
    def of(cls, names: Iterable[str]) -> "_Listing":
        positions, compactions = [], []
        for name in names:
            if _RECORD.fullmatch(name):
                positions.append(int(name))
            elif match := _COMPACTION.fullmatch(name):
                compactions.append(int(match[1]))
        return cls(tuple(sorted(positions)), tuple(sorted(compactions)))


def _compaction(through: int) -> str:
    return f"folded-{through:012d}"
