"""The journal in a directory: one file a record, created where none stands, so that the first writer wins.

``<position>.json`` holds a record; ``snapshot-<through>.json`` what is still needed of those up to ``through``. The
snapshot with the highest number counts, and with it the records after it; what it replaced is then removed.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from authority.journal.codec import dump_record, dump_snapshot, load_record, load_snapshot
from authority.journal.interface import JournalConflict, JournalError
from authority.journal.record_types import Entry, Record
from authority.support import atomic_files

T = TypeVar("T")

_RECORD = re.compile(r"(\d{12})\.json")
_SNAPSHOT = re.compile(r"snapshot-(\d{12})\.json")


class DirectoryJournal:
    """Implements ``Journal``; several processes on one machine may use it at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def read(self) -> tuple[Entry, ...]:
        """Every record that still matters, in order."""
        return await self._on_disk("read", self._read)

    async def head(self) -> int:
        """The last position."""
        return await self._on_disk("read", lambda: _Listing.of(self._directory).head)

    async def append(self, position: int, record: Record) -> None:
        """Write the record at ``position``."""
        await self._on_disk("written", lambda: self._append(position, record))

    async def compact(self, keep: tuple[Entry, ...], through: int) -> None:
        """Replace every record up to position ``through`` by those of ``keep``."""
        await self._on_disk("written", lambda: self._compact(keep, through))

    async def _on_disk(self, done: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise JournalError(
                f"journal {self._directory}: expected it to be {done}, found {error.strerror} ({error.filename})"
            ) from error

    def _read(self) -> tuple[Entry, ...]:
        # What a killed process wrote may be visible and not yet durable. The directory is synced before it is read, so
        # that nothing is decided on a record that a power failure could take back.
        atomic_files.sync_directory(self._directory)
        while True:
            listing = _Listing.of(self._directory)
            try:
                return self._entries(listing)
            except FileNotFoundError:
                if _Listing.of(self._directory) == listing:
                    raise
                # Compacted between the listing and the reads: what is there now is whole again.

    def _entries(self, listing: "_Listing") -> tuple[Entry, ...]:
        kept: tuple[Entry, ...] = ()
        if listing.through:
            path = self._snapshot_path(listing.through)
            kept, through = _load(path, load_snapshot)
            if through != listing.through:
                raise JournalError(f"{path}: expected a snapshot through {listing.through}, found {through}")
        later = listing.positions
        if later != tuple(range(listing.through + 1, listing.through + 1 + len(later))):
            missing = min(set(range(listing.through + 1, later[-1])) - set(later))
            raise JournalError(
                f"{self._record_path(missing)}: expected a record, found none though later ones stand; restore the "
                f"journal from a backup"
            )
        return (*kept, *(Entry(position, _load(self._record_path(position), load_record)) for position in later))

    def _append(self, position: int, record: Record) -> None:
        path = self._record_path(position)
        head = _Listing.of(self._directory).head
        if position <= head:
            raise _conflict(path)
        if position > head + 1:
            raise JournalError(f"{path}: expected to append at position {head + 1}, found {position}")
        try:
            atomic_files.create_file(path, dump_record(record).encode() + b"\n", atomic_files.SECRET)
        except FileExistsError:
            raise _conflict(path) from None
        # Listed once more after the write: between our listing and our write, others may have written this position
        # and compacted it away. Then no file stood there, and creating ours could not see the conflict.
        if _Listing.of(self._directory).through >= position:
            path.unlink(missing_ok=True)
            raise _conflict(path)

    def _compact(self, keep: tuple[Entry, ...], through: int) -> None:
        # The snapshot is durable before anything that it replaces is removed: a crash in between leaves both, and the
        # snapshot with the highest number counts.
        listing = _Listing.of(self._directory)
        if through > listing.through:
            data = dump_snapshot(keep, through).encode() + b"\n"
            atomic_files.replace_file(self._snapshot_path(through), data, atomic_files.SECRET)
        self._delete_replaced()

    def _delete_replaced(self) -> None:
        """Delete what the newest snapshot has replaced."""
        through = _Listing.of(self._directory).through
        for path in sorted(self._directory.iterdir()):
            record, snapshot = _RECORD.fullmatch(path.name), _SNAPSHOT.fullmatch(path.name)
            if (record and int(record[1]) <= through) or (snapshot and int(snapshot[1]) < through):
                path.unlink(missing_ok=True)
        atomic_files.sync_directory(self._directory)

    def _record_path(self, position: int) -> Path:
        return self._directory / f"{position:012d}.json"

    def _snapshot_path(self, through: int) -> Path:
        return self._directory / f"snapshot-{through:012d}.json"


@dataclass(frozen=True, slots=True)
class _Listing:
    """The names in the directory."""

    through: int
    """The last position that the newest snapshot covers, 0 for no snapshot."""

    positions: tuple[int, ...]
    """Positions of the records after the snapshot, rising."""

    @property
    def head(self) -> int:
        return self.positions[-1] if self.positions else self.through

    @classmethod
    def of(cls, directory: Path) -> "_Listing":
        names = [path.name for path in directory.iterdir()]
        through = max((int(match[1]) for name in names if (match := _SNAPSHOT.fullmatch(name))), default=0)
        positions = sorted(int(match[1]) for name in names if (match := _RECORD.fullmatch(name)))
        return cls(through, tuple(position for position in positions if position > through))


def _load(path: Path, load: Callable[[bytes], T]) -> T:
    try:
        return load(path.read_bytes())
    except JournalError as error:
        raise JournalError(f"{path}: expected it as it was written; {error}; restore it from a backup") from None


def _conflict(path: Path) -> JournalConflict:
    return JournalConflict(f"{path}: expected to write this record first, found that another stands there")
