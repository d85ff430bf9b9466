"""The journal as the controllers share it: replayed once for all, and the one source from which they learn of changes.

Nothing passes between controllers but what the journal says. A controller that waits for the next statement or the next
signing CA watches this store, so that a decision has no effect anywhere before it is committed.
"""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from authority.journal.history import EMPTY, History
from authority.journal.interface import Journal, JournalConflict, JournalError
from authority.journal.record_types import Entry, Record
from authority.journal.replay import replay

_CATCH_UP_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 1.6)
"""Seconds between reads of a journal that shows less than it has shown before."""


class NotLeading(JournalConflict):
    """Another replica may lead by now: this replica writes, deletes and publishes nothing any more."""


class JournalStore:
    """Reads and appends for all controllers of this process; the journal's head fences off other processes.

    ``leads`` says whether this process may still act; the store asks before each effect.
    """

    def __init__(self, journal: Journal, leads: Callable[[], bool] = lambda: True) -> None:
        self._journal = journal
        self._leads = leads
        self._history = EMPTY
        self._is_stale = True
        self._lock = asyncio.Lock()
        self._watchers: WeakKeyDictionary[asyncio.Event, None] = WeakKeyDictionary()

    @property
    def history(self) -> History:
        """The history as it was last read."""
        return self._history

    def watch(self) -> asyncio.Event:
        """A new event that is set whenever the history has changed; the caller keeps it alive, and clears it."""
        event = asyncio.Event()
        self._watchers[event] = None
        return event

    async def read(self) -> History:
        """The history as it is now; reads the head alone where nothing was appended. Raises JournalError."""
        async with self._lock:
            found = await self._head()
            if self._is_stale or found != self._history.head:
                history = replay(await self._journal.read())
                if history.head < found:
                    raise JournalError(f"journal: expected records up to {found}, found them up to {history.head}")
                self._set(history)
                self._is_stale = False
            return self._history

    def check_lease(self) -> None:
        """Raise NotLeading where this replica leads no longer: the process may have been paused since the decision."""
        if not self._leads():
            raise NotLeading("journal: expected to lead, found that the lease has run out; another replica takes over")

    def invalidate(self) -> None:
        """Have the next ``read`` read everything anew: another replica may have appended, and compacted, meanwhile."""
        self._is_stale = True

    async def confirm(self, decided_on: History) -> None:
        """Read the head once more before something outside is changed (docs/architecture.md, invariant 8).

        Raises:
            JournalConflict: the decision rests on a history that has moved on, or another replica leads.
            JournalError: the journal could not be read.
        """
        found = await self._head()
        # The lease is checked last, after the only await: no time passes between the check and the caller's effect.
        self.check_lease()
        if found != decided_on.head:
            raise JournalConflict(f"journal: expected its head at {decided_on.head}, found it at {found}")

    async def append(self, decided_on: History, record: Record) -> History:
        """Commit a record that was decided upon this history.

        Raises:
            JournalConflict: the history has moved on, or another replica leads; nothing was written.
            JournalError: it is not known whether the record stands.
        """
        async with self._lock:
            self.check_lease()
            # The position follows from the history that the decision rests on, not from the journal's head now: where
            # another process has appended meanwhile, the compare-and-set fails.
            position = decided_on.head + 1
            await self._journal.append(position, record)
            self._set(replay((*decided_on.entries, Entry(position, record))))
            return self._history

    async def compact(self, decided_on: History, keep: tuple[Entry, ...], through: int) -> None:
        """Replace the records up to ``through`` by ``keep``. Raises JournalConflict, JournalError."""
        await self.confirm(decided_on)
        async with self._lock:
            self._is_stale = True  # a compaction leaves the head as it is, so the head alone would not show it
            await self._journal.compact(keep, through)

    async def _head(self) -> int:
        """The journal's head. Raises JournalError.

        A standby of OpenBao answers reads, and may not know yet what was written a moment ago. The standby is given
        time to catch up, or a CA that was just committed would look like an orphan. A journal that shows less for
        longer was restored from a backup.
        """
        for pause in _CATCH_UP_PAUSES:
            found = await self._journal.head()
            if found >= self._history.head:
                return found
            await asyncio.sleep(pause)
        return await self._journal.head()

    def _set(self, history: History) -> None:
        self._history = history
        for event in self._watchers:
            event.set()
