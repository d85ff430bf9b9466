"""Election by files in a directory that the replicas share: those of one machine, or of one file system.

A replica leads while it holds the newest term (``term_files``) and its lease runs. A term whose lock is free is over at
once: its process has ended. A term whose counter has not changed for a lease, as another replica saw it, belongs to a
process that is paused or cut off, and is taken over.

The campaign runs in a thread: ten thousand receipts at once keep the event loop busy, and are no reason to lose. An
event loop that has not turned for three leases is.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from authority.election.interface import LEASE_SECONDS, ElectionError, Replica, boottime
from authority.election.term_files import HeldTerm, SeenTerm, TermFiles
from authority.support import atomic_files

_KEPT = 0.8  # of a lease, after which a leader that could not renew it stops: before another replica may take over
_BEATS = 5  # in a lease
_LOOKS = 10  # in a lease
_STUCK = 3  # leases, after which an event loop that has not turned leads no longer
_JOIN_SECONDS = 1.0


class FileElection:
    """Implements ``Election``.

    ``failed`` takes an error after which the campaign goes on. ``clock`` counts seconds, also while we are paused.
    Thirteen fields: what it is made with, its own term, what it saw of others, and what the thread shares with the
    event loop; all of it changes in one turn, so it stays in one class.
    """

    def __init__(
        self,
        me: Replica,
        directory: Path,
        failed: Callable[[ElectionError], None],
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.me = me
        self._files = TermFiles(directory)
        self._failed = failed
        self._lease = lease_seconds
        self._clock = clock
        self._term: HeldTerm | None = None
        self._until = -1.0
        self._other: Replica | None = None
        self._seen: tuple[SeenTerm, float] | None = None
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulse: float | None = None
        self._stopping = threading.Event()

    @property
    def leads(self) -> bool:
        """Whether our lease runs at this instant."""
        return self._term is not None and self._clock() < self._until

    @property
    def leader(self) -> Replica | None:
        """The leader, as last seen."""
        return self.me if self.leads else self._other

    async def run(self) -> None:
        """Campaign until cancelled, and resign. Raises ElectionError where the directory cannot be used at all."""
        try:
            await asyncio.to_thread(atomic_files.make_directory, self._files.directory)
        except OSError as error:
            raise self._error("expected a directory where replicas can agree on a leader", error) from None
        self._loop = asyncio.get_running_loop()
        self._stopping.clear()
        thread = threading.Thread(target=self._campaign, name="election", daemon=True)
        self.pulse()
        thread.start()
        try:
            while True:
                self.pulse()
                await asyncio.sleep(self._lease / _BEATS)
        finally:
            self._stopping.set()
            thread.join(_JOIN_SECONDS)
            # A thread that still runs waits for the disk, and may not lose its term meanwhile: the lease ends by
            # itself then.
            if not thread.is_alive():
                self._stand_down()

    async def won(self) -> None:
        """Return once ``me`` leads."""
        self._loop = asyncio.get_running_loop()
        while True:
            # Before the check: the thread may win between the two.
            changed = self._changed
            if self.leads:
                return
            await changed.wait()

    async def lost(self) -> None:
        """Return once the term that runs now is over, also where its lease ends before the thread notices."""
        self._loop = asyncio.get_running_loop()
        term = self._term
        while term is not None:
            changed = self._changed
            if self._term is not term or not self.leads:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._until - self._clock())):
                    await changed.wait()

    def _campaign(self) -> None:
        """The thread's work."""
        while not self._stopping.is_set():
            try:
                self.turn()
            except OSError as error:
                self._call_in_loop(self._failed, self._error("expected to read and write the terms of office", error))
            self._stopping.wait(self._lease / (_BEATS if self._term else _LOOKS))

    def pulse(self) -> None:
        """Note that the event loop turns."""
        self._pulse = self._clock()

    def turn(self) -> None:
        """Read the terms once, and beat, stand down or take over. Raises OSError."""
        # The time is taken before the disk is touched: a lease counts from then, however long the disk takes.
        began = self._clock()
        is_stuck = self._pulse is not None and began - self._pulse >= _STUCK * self._lease
        # The beat comes before the look: while we hold the newest term, others see a living leader as early as can be.
        if self._term is not None and not is_stuck:
            self._term.beat()
        newest = self._files.newest(self._term)
        if self._term is None:
            is_over = self._is_over(newest, began)
            self._other = None if is_over else newest.holder
            if is_over and not is_stuck:
                self._claim(newest.number + 1)
        elif self.leads and newest.number == self._term.number:
            self._until = began + _KEPT * self._lease if not is_stuck else self._until
        else:  # we were paused or cut off: another replica may have led since, though the files name us
            self._stand_down()

    def _is_over(self, newest: SeenTerm, began: float) -> bool:
        """Whether the term has no holder any more, by this look, which began at ``began``, and the looks before."""
        if self._seen is None or self._seen[0] != newest:
            self._seen = newest, self._clock()
        return newest.is_free or began - self._seen[1] >= self._lease

    def _claim(self, number: int) -> None:
        began = self._clock()
        term = self._files.claim(number, self.me)
        if term is None:
            # Another replica was faster.
            return
        self._other, self._seen = None, None
        # The lease first, the term second: ``leads`` in the event loop never sees our term with an old lease.
        self._until = began + _KEPT * self._lease
        self._term = term
        self._wake()

    def _stand_down(self) -> None:
        """End our term, if there is one."""
        term, self._term, self._until = self._term, None, -1.0
        if term is not None:
            term.end()
            self._wake()

    def _wake(self) -> None:
        """Let ``won`` and ``lost`` look again."""
        changed, self._changed = self._changed, asyncio.Event()
        self._call_in_loop(changed.set)

    def _call_in_loop(self, call: Callable[..., None], *arguments: ElectionError) -> None:
        """Call from the event loop; a loop that has ended has no waiter."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call, *arguments)

    def _error(self, expected: str, error: OSError) -> ElectionError:
        where = self._files.directory
        return ElectionError(f"election {where}: {expected}, found {error.strerror} ({error.filename})")
