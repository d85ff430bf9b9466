"""Election by files in a directory that the replicas share: those of one machine, or of one file system.

``<number>.term`` is a term of office: who holds it, and the beat of its heart. It is made where none stands, so that of
several one wins, and appears already locked; the highest number counts. Its holder keeps the lock for as long as its
process lives (the kernel lets go of it with the process) and changes the beat. A term whose lock is free is over at
once; one whose beat has not changed for a lease, as the other saw it, belongs to a process that is paused or cut off.

All of this happens in a thread: ten thousand receipts at once keep the event loop busy, and are no reason to lose. A
loop that has not turned for three leases is.
"""

import asyncio
import fcntl
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from authority.election.interface import LEASE_SECONDS, ElectionError, Replica
from authority.support import atomic_files

_KEPT = 0.8  # of a lease, after which a leader that could not renew it stops: before anybody may take over
_BEATS = 5  # in a lease
_LOOKS = 10  # in a lease
_STUCK = 3  # leases, after which an event loop that has not turned leads no longer
_JOIN_SECONDS = 1.0
_TERM = re.compile(r"(\d{12})\.term")
_LONGEST = 4096


def boottime() -> float:
    """Seconds of a clock that never jumps and also counts while the machine sleeps (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Sight(NamedTuple):
    """The term that counts, as one look found it; number 0 where there is none."""

    number: int
    content: bytes
    is_free: bool


@dataclass(slots=True)
class _Term:
    """A term that we hold, in an open file that is locked until it is closed."""

    number: int
    descriptor: int
    head: bytes
    beats: int = 0

    def beat(self) -> None:
        self.beats += 1
        os.pwrite(self.descriptor, _beat(self.beats), len(self.head))

    def end(self) -> None:
        os.close(self.descriptor)


class FileElection:
    """Implements ``Election``.

    ``failed`` is told of what went wrong and is tried again. ``clock`` counts seconds, also while we are paused.
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
        self._directory = directory
        self._failed = failed
        self._lease = lease_seconds
        self._clock = clock
        self._term: _Term | None = None
        self._until = -1.0
        self._other: Replica | None = None
        self._seen: tuple[_Sight, float] | None = None
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
        """Who leads, as last seen."""
        return self.me if self.leads else self._other

    async def run(self) -> None:
        """Campaign until cancelled, and resign. Raises ElectionError where the directory cannot be used at all."""
        try:
            await asyncio.to_thread(atomic_files.make_directory, self._directory)
        except OSError as error:
            raise self._error("expected a directory where replicas can agree on a leader", error) from None
        self._loop = asyncio.get_running_loop()
        self._stopping.clear()
        thread = threading.Thread(target=self._campaign_for_ever, name="election", daemon=True)
        self.pulse()
        thread.start()
        try:
            while True:
                self.pulse()
                await asyncio.sleep(self._lease / _BEATS)
        finally:
            self._stopping.set()
            thread.join(_JOIN_SECONDS)
            if not thread.is_alive():  # or the disk holds it, and our lease ends by itself
                self._stand_down()

    async def won(self) -> None:
        """Return once ``me`` leads."""
        self._loop = asyncio.get_running_loop()
        while True:
            changed = self._changed  # before the look: the thread may win between the two
            if self.leads:
                return
            await changed.wait()

    async def lost(self) -> None:
        """Return once the term is over that was running at the call, also where nobody has noticed yet."""
        self._loop = asyncio.get_running_loop()
        term = self._term
        while term is not None:
            changed = self._changed
            if self._term is not term or not self.leads:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._until - self._clock())):
                    await changed.wait()

    def _campaign_for_ever(self) -> None:
        """The thread's work."""
        while not self._stopping.is_set():
            try:
                self.turn()
            except OSError as error:
                self._tell(self._failed, self._error("expected to read and write the terms of office", error))
            self._stopping.wait(self._lease / (_BEATS if self._term else _LOOKS))

    def pulse(self) -> None:
        """The event loop turns."""
        self._pulse = self._clock()

    def turn(self) -> None:
        """Look once, and do what follows: beat, stand down, or take over. Raises OSError."""
        began = self._clock()
        is_stuck = self._pulse is not None and began - self._pulse >= _STUCK * self._lease
        if self._term is not None and not is_stuck:
            self._term.beat()
        sight = self._look()
        if self._term is None:
            is_over = self._is_over(sight, began)
            self._other = None if is_over else _holder(sight.content)
            if is_over and not is_stuck:
                self._take_over(sight.number + 1)
        elif self.leads and sight.number == self._term.number:
            self._until = began + _KEPT * self._lease if not is_stuck else self._until
        else:  # paused or cut off: whatever the files say, others may have gone on without us
            self._stand_down()

    def _is_over(self, sight: _Sight, began: float) -> bool:
        """Whether nobody leads (any more), by what this look, begun at ``began``, and those before it found."""
        if self._seen is None or self._seen[0] != sight:
            self._seen = sight, self._clock()
        return sight.is_free or began - self._seen[1] >= self._lease

    def _take_over(self, number: int) -> None:
        began = self._clock()
        term = self._take(number)
        if term is None:
            return  # another was faster
        self._other, self._seen = None, None
        self._until = began + _KEPT * self._lease
        self._term = term
        self._turned()

    def _stand_down(self) -> None:
        """End our term, if there is one; its file stays, so that numbers go on rising."""
        term, self._term, self._until = self._term, None, -1.0
        if term is not None:
            term.end()
            self._turned()

    def _turned(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        self._tell(changed.set)

    def _tell(self, what: Callable[..., None], *told: ElectionError) -> None:
        """Have the event loop do it; one that has ended has nobody waiting."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(what, *told)

    def _look(self) -> _Sight:
        number = max(self._numbers(), default=0)
        if number == 0:
            return _Sight(0, b"", is_free=True)
        if self._term is not None and self._term.number == number:
            return _Sight(number, b"", is_free=False)
        try:
            descriptor = os.open(self._path(number), os.O_RDONLY)
        except FileNotFoundError:  # a higher one has come meanwhile, and this one was removed
            return _Sight(number, b"", is_free=False)
        try:
            return _Sight(number, os.read(descriptor, _LONGEST), _is_free(descriptor))
        finally:
            os.close(descriptor)

    def _take(self, number: int) -> _Term | None:
        """Make this term ours; None where another holds it, or a higher one."""
        temporary = self._directory / f".{secrets.token_hex(4)}.tmp"
        head = json.dumps({"name": self.me.name, "url": self.me.url}).encode() + b"\n"
        term = _Term(number, os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, atomic_files.PUBLIC), head)
        taken = False
        try:
            os.write(term.descriptor, head + _beat(0))
            fcntl.flock(term.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.link(temporary, self._path(number))  # fails where the name is taken
            atomic_files.sync_directory(self._directory)
            taken = max(self._numbers()) == number  # or we were paused, and it was taken, left and removed meanwhile
        except FileExistsError:
            return None
        finally:
            temporary.unlink()
            if not taken:
                term.end()
        if not taken:
            return None
        for old in self._numbers():
            if old < number:
                self._path(old).unlink(missing_ok=True)
        return term

    def _numbers(self) -> list[int]:
        names = [path.name for path in self._directory.iterdir()]
        return [int(match[1]) for name in names if (match := _TERM.fullmatch(name))]

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}.term"

    def _error(self, expected: str, error: OSError) -> ElectionError:
        return ElectionError(f"election {self._directory}: {expected}, found {error.strerror} ({error.filename})")


def _beat(number: int) -> bytes:
    return f"{number:020d}\n".encode()


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the file locked: the process that did has ended."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(content: bytes) -> Replica | None:
    try:
        told = json.loads(content.partition(b"\n")[0])
        return Replica(str(told["name"]), str(told["url"]))
    except (ValueError, KeyError, TypeError):
        return None
