"""Terms of office as files in a directory that the replicas share.

``<number>.term`` names its holder, and a counter that the holder raises (a heartbeat). The highest number counts. The
holder keeps the file locked (flock(2)) for as long as its process lives: the kernel releases the lock with the process.
Everything here blocks on the file system, and raises OSError.
"""

import fcntl
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from authority.election.interface import Replica
from authority.support import atomic_files

_TERM = re.compile(r"(\d{12})\.term")
_LONGEST = 4096


class SeenTerm(NamedTuple):
    """The term that counts, as one look found it; number 0 where there is none."""

    number: int
    content: bytes
    is_free: bool
    """Whether no process holds the lock: the holder's has ended."""

    @property
    def holder(self) -> Replica | None:
        """The replica that the file names; None where it names none that can be read."""
        try:
            fields = json.loads(self.content.partition(b"\n")[0])
            return Replica(str(fields["name"]), str(fields["url"]))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(slots=True)
class HeldTerm:
    """A term that we hold, in an open file that stays locked until it is closed."""

    number: int
    _descriptor: int
    _head: bytes
    _beats: int = 0

    def beat(self) -> None:
        """Raise the counter, by which others see that we live."""
        self._beats += 1
        os.pwrite(self._descriptor, _counter(self._beats), len(self._head))

    def end(self) -> None:
        """Release the lock. The file stays, so that the numbers go on rising."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class TermFiles:
    """The terms in one directory."""

    directory: Path

    def newest(self, held: HeldTerm | None) -> SeenTerm:
        """The term that counts now; ``held`` is ours, which is not read back."""
        number = max(self._numbers(), default=0)
        if number == 0:
            return SeenTerm(0, b"", is_free=True)
        if held is not None and held.number == number:
            return SeenTerm(number, b"", is_free=False)
        try:
            descriptor = os.open(self._path(number), os.O_RDONLY)
        except FileNotFoundError:  # a higher term has come meanwhile, and its holder has removed this one
            return SeenTerm(number, b"", is_free=False)
        try:
            return SeenTerm(number, os.read(descriptor, _LONGEST), _is_free(descriptor))
        finally:
            os.close(descriptor)

    def claim(self, number: int, me: Replica) -> HeldTerm | None:
        """Make this term ours; None where another replica holds it, or a higher one."""
        temporary = self.directory / f".{secrets.token_hex(4)}.tmp"
        head = json.dumps({"name": me.name, "url": me.url}).encode() + b"\n"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, atomic_files.PUBLIC)
        is_ours = False
        # Written and locked before it gets its name: other replicas never see a term that looks free. The link fails
        # where the name is taken, so of several replicas one wins.
        try:
            os.write(descriptor, head + _counter(0))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.link(temporary, self._path(number))
            atomic_files.sync_directory(self.directory)
            # Where we were paused before the link, another replica may have held this number, lost it to a higher term
            # and seen it removed.
            is_ours = max(self._numbers()) == number
        except FileExistsError:
            return None
        finally:
            temporary.unlink()
            if not is_ours:
                os.close(descriptor)
        if not is_ours:
            return None
        for old in self._numbers():
            if old < number:
                self._path(old).unlink(missing_ok=True)
        return HeldTerm(number, descriptor, head)

    def _numbers(self) -> list[int]:
        names = [path.name for path in self.directory.iterdir()]
        return [int(match[1]) for name in names if (match := _TERM.fullmatch(name))]

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:012d}.term"


def _counter(number: int) -> bytes:
    return f"{number:020d}\n".encode()


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
