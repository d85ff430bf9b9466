"""The journal: what the authority decided, in order; the commit point of every step.

Records are appended by compare-and-set on their position. What is in the journal happened, and what is not there did
not happen: a restart continues from the journal alone (docs/architecture.md, "Journal").
"""

from typing import Protocol

from authority.errors import StateUnusable
from authority.journal.record_types import Entry, Record


class JournalError(StateUnusable):
    """The journal could not be read or written; the message names it, and what to do."""


class JournalConflict(JournalError):
    """Another record already stands at this position: another process leads, or led. Read again and decide anew."""


def unreadable_bundle(position: int, error: ValueError) -> JournalError:
    """The error of a statement's record whose bundle does not parse."""
    return JournalError(
        f"journal record {position}: expected a bundle as it was written, found one that does not read ({error}); "
        f"restore the journal from a backup"
    )


class Journal(Protocol):
    """An append-only sequence of records with one writer at a time.

    ``append`` returns only after the record is durable, and is atomic: a crash leaves the whole record or nothing. It
    is never retried blindly: after any other error than JournalConflict the caller reads again to learn whether the
    record stands.
    """

    async def read(self) -> tuple[Entry, ...]:
        """Every record that still matters, in order. Raises JournalError."""

    async def head(self) -> int:
        """The last position, 0 in an empty journal: a cheap check for new records. Raises JournalError."""

    async def append(self, position: int, record: Record) -> None:
        """Write the record at ``position``. Raises JournalConflict where one stands there, JournalError otherwise."""

    async def compact(self, keep: tuple[Entry, ...], through: int) -> None:
        """Replace every record up to position ``through`` by those of ``keep``; safe to repeat. Raises JournalError."""
