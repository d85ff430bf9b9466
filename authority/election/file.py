"""Election by files in a directory that the replicas share: those of one machine, or of one file system.

``<number>.term`` is a term of office: who holds it, and the beat of its heart. It is made where none stands, so that of
several one wins, and appears already locked; the highest number counts. Its holder keeps the lock for as long as its
process lives (the kernel lets go of it with the process) and changes the beat. A term whose lock is free is over at
once; one whose beat has not changed for a lease, as the other saw it, belongs to a process that is paused or cut off.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from authority import durable
from authority.election import ElectionError, Replica

LEASE_SECONDS = 10
"""How long a leader is waited for that has stopped beating."""

_KEPT = 0.8  # of a lease, after which a leader that could not renew it stops: before anybody may take over
_BEATS = 5  # in a lease
_LOOKS = 10  # in a lease
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
    is_open: bool = True
    turn: threading.Lock = field(default_factory=threading.Lock)

    def beat(self) -> None:
        with self.turn:
            if self.is_open:  # or the number may be another file's by now
                self.beats += 1
                os.pwrite(self.descriptor, _beat(self.beats), len(self.head))

    def end(self) -> None:
        with self.turn:
            self.is_open = False
            os.close(self.descriptor)


class FileElection:
    """Keeps to ``authority.election.Election``.

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
            await asyncio.to_thread(durable.make_directory, self._directory)
        except OSError as error:
            raise self._error("expected a directory where replicas can agree on a leader", error) from None
        try:
            while True:
                try:
                    await self.turn()
                except OSError as error:
                    self._failed(self._error("expected to read and write the terms of office", error))
                await asyncio.sleep(self._lease / (_BEATS if self._term else _LOOKS))
        finally:
            self._stand_down()

    async def won(self) -> None:
        """Return once ``me`` leads."""
        while not self.leads:
            await self._changed.wait()

    async def lost(self) -> None:
        """Return once the term is over that was running at the call, also where nobody has noticed yet."""
        term = self._term
        while term is not None and self._term is term and self.leads:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._until - self._clock())):
                    await self._changed.wait()

    async def turn(self) -> None:
        """Look once, and do what follows: beat, stand down, or take over. Raises OSError."""
        began = self._clock()
        if self._term is not None:
            await asyncio.to_thread(self._term.beat)
        sight = await asyncio.to_thread(self._look)
        if self._term is None:
            await self._campaign(sight, began)
        elif self.leads and sight.number == self._term.number:
            self._until = began + _KEPT * self._lease
        else:  # paused or cut off: whatever the files say, others may have gone on without us
            self._stand_down()

    async def _campaign(self, sight: _Sight, began: float) -> None:
        """Take over where nobody leads (any more)."""
        if self._seen is None or self._seen[0] != sight:
            self._seen = sight, self._clock()
        is_over = sight.is_free or began - self._seen[1] >= self._lease
        self._other = None if is_over else _holder(sight.content)
        if not is_over:
            return
        began = self._clock()
        term = await asyncio.to_thread(self._take, sight.number + 1)
        if term is None:
            return  # another was faster
        self._term, self._other, self._seen = term, None, None
        self._until = began + _KEPT * self._lease
        self._turned()

    def _stand_down(self) -> None:
        """End our term, if there is one; its file stays, so that numbers go on rising."""
        term, self._term, self._until = self._term, None, -1.0
        if term is not None:
            term.end()
            self._turned()

    def _turned(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

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
        term = _Term(number, os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, durable.PUBLIC), head)
        taken = False
        try:
            os.write(term.descriptor, head + _beat(0))
            fcntl.flock(term.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.link(temporary, self._path(number))  # fails where the name is taken
            durable.sync_directory(self._directory)
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
