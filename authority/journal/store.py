"""The journal as the sequencers share it: folded once for all, and the one place from which they learn of a change.

Nothing passes between sequencers but what the journal says: whoever waits for the next statement or the next signing CA
watches the timeline, so that a decision has no effect anywhere before it is committed.
"""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from authority.journal.history import EMPTY, History
from authority.journal.interface import Journal, JournalConflict, JournalError
from authority.journal.record_types import Entry, Record
from authority.journal.replay import replay

_CATCH_UP = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 1.6)
"""Seconds between looks at a journal that shows less than it has already shown."""


class NotLeading(JournalConflict):
    """Another replica may lead by now: nothing is written, deleted or published any more."""


class JournalStore:
    """Reads and appends for all sequencers of this process; other processes are fenced off by the journal's head.

    ``leads`` says whether this process may still act: it is asked before each effect.
    """

    def __init__(self, journal: Journal, leads: Callable[[], bool] = lambda: True) -> None:
        self._journal = journal
        self._leads = leads
        self._history = EMPTY
        self._is_stale = True
        self._turn = asyncio.Lock()
        self._watchers: WeakKeyDictionary[asyncio.Event, None] = WeakKeyDictionary()

    @property
    def history(self) -> History:
        """The journal as it was last read."""
        return self._history

    def watch(self) -> asyncio.Event:
        """An event of the caller's own, set whenever the history has changed; the caller clears it, and keeps it."""
        event = asyncio.Event()
        self._watchers[event] = None
        return event

    async def read(self) -> History:
        """The history as it is now; costs one look at the head where nothing was appended. Raises JournalError."""
        async with self._turn:
            found = await self._head()
            if self._is_stale or found != self._history.head:
                history = replay(await self._journal.read())
                if history.head < found:
                    raise JournalError(f"journal: expected records up to {found}, found them up to {history.head}")
                self._change(history)
                self._is_stale = False
            return self._history

    def check_lease(self) -> None:
        """Raise NotLeading where this replica leads no longer: it may have been paused since it decided."""
        if not self._leads():
            raise NotLeading("journal: expected to lead, found that the lease has run out; another replica goes on")

    def doubt(self) -> None:
        """Have the next ``read`` take nothing for granted: others may have written, and folded, meanwhile."""
        self._is_stale = True

    async def confirm(self, decided_on: History) -> None:
        """Look at the head once more before something outside is changed (docs/architecture.md, invariant 8).

        Raises:
            JournalConflict: the decision rests on a history that has moved on, or another replica leads.
            JournalError: the journal could not be read.
        """
        found = await self._head()
        self.check_lease()
        if found != decided_on.head:
            raise JournalConflict(f"journal: expected its head at {decided_on.head}, found it at {found}")

    async def append(self, decided_on: History, record: Record) -> History:
        """Commit a record that was decided upon this history.

        Raises:
            JournalConflict: the history has moved on, or another replica leads; nothing was written.
            JournalError: it is not known whether the record stands.
        """
        async with self._turn:
            self.check_lease()
            position = decided_on.head + 1
            await self._journal.append(position, record)
            self._change(replay((*decided_on.entries, Entry(position, record))))
            return self._history

    async def fold(self, decided_on: History, keep: tuple[Entry, ...], through: int) -> None:
        """Replace the records up to ``through`` by ``keep``. Raises JournalConflict, JournalError."""
        await self.confirm(decided_on)
        async with self._turn:
            self._is_stale = True  # the head stays where it is
            await self._journal.fold(keep, through)

    async def _head(self) -> int:
        """The journal's head. Raises JournalError.

        A standby of OpenBao answers reads, and may not know yet what was written a moment ago: it is given time to
        catch up, or a CA that was just committed would look like one that nobody needs. What shows less for longer was
        restored from a backup.
        """
        for pause in _CATCH_UP:
            found = await self._journal.head()
            if found >= self._history.head:
                return found
            await asyncio.sleep(pause)
        return await self._journal.head()

    def _change(self, history: History) -> None:
        self._history = history
        for event in self._watchers:
            event.set()
