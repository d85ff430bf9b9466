"""inotify(7) for the event loop: changes in directories wake it at once, and nothing runs while there are none.

The libraries for it (watchfiles among them) poll a thread's queue: that costs tens of milliseconds at each change, and
most of an idle agent's processor time. The standard library has no binding, so these are the three calls.
"""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_IN_CLOSE_WRITE = 0x008
_IN_MOVED_FROM = 0x040
_IN_MOVED_TO = 0x080
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_ONLYDIR = 0x01000000
_CONTENT = _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_MASK = _CONTENT | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR
_EVENTS = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int, path: Path | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path) if path else None)
    return result


class Inotify:
    """Watches directories, not what is below them. For one event loop and one waiter; ``close`` it."""

    def __init__(self, directories: Iterable[Path]) -> None:
        """Raises OSError: a directory is not there, or the system has no instances or watches left."""
        self._changed = asyncio.Event()
        self._fd = _call(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            for directory in directories:
                _call(_libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK), directory)
            asyncio.get_running_loop().add_reader(self._fd, self._drain)
        except OSError:
            os.close(self._fd)
            raise

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, _EVENTS):
                self._changed.set()

    async def changed(self) -> None:
        """Wait for a change since the watch was made, or since this last returned."""
        await self._changed.wait()
        self._changed.clear()

    def close(self) -> None:
        """Stop watching."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
