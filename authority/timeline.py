"""The journal as the sequencers share it: folded once for all, and the one place from which they learn of a change.

Nothing passes between sequencers but what the journal says: whoever waits for the next statement or the next signing CA
watches the timeline, so that a decision has no effect anywhere before it is committed.
"""

import asyncio

from authority.history import EMPTY, History, fold
from authority.journal import Entry, Journal, JournalConflict, Record


class Timeline:
    """Reads and appends for all sequencers of this process; other processes are fenced off by the journal's head."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._history = EMPTY
        self._is_stale = True
        self._turn = asyncio.Lock()
        self._watchers: list[asyncio.Event] = []

    @property
    def history(self) -> History:
        """The journal as it was last read."""
        return self._history

    def watch(self) -> asyncio.Event:
        """An event of the caller's own, set whenever the history has changed; the caller clears it."""
        event = asyncio.Event()
        self._watchers.append(event)
        return event

    async def read(self) -> History:
        """The history as it is now; costs one look at the head where nothing was appended. Raises JournalError."""
        async with self._turn:
            if self._is_stale or await self._journal.head() != self._history.head:
                self._change(fold(await self._journal.read()))
                self._is_stale = False
            return self._history

    async def confirm(self, decided_on: History) -> None:
        """Look at the head once more before something outside is changed (invariant 8).

        Raises:
            JournalConflict: the decision rests on a history that has moved on.
            JournalError: the journal could not be read.
        """
        if (found := await self._journal.head()) != decided_on.head:
            raise JournalConflict(f"journal: expected its head at {decided_on.head}, found it at {found}")

    async def append(self, decided_on: History, record: Record) -> History:
        """Commit a record that was decided upon this history.

        Raises:
            JournalConflict: the history has moved on; nothing was written.
            JournalError: it is not known whether the record stands.
        """
        async with self._turn:
            position = decided_on.head + 1
            await self._journal.append(position, record)
            self._change(fold((*decided_on.entries, Entry(position, record))))
            return self._history

    async def fold(self, decided_on: History, keep: tuple[Entry, ...], through: int) -> None:
        """Replace the records up to ``through`` by ``keep``. Raises JournalConflict, JournalError."""
        await self.confirm(decided_on)
        async with self._turn:
            self._is_stale = True  # the head stays where it is
            await self._journal.fold(keep, through)

    def _change(self, history: History) -> None:
        self._history = history
        for event in self._watchers:
            event.set()
