"""Changes in directories, as inotify(7) tells the event loop: at once, and nothing runs while there are none.

Libraries that poll a thread's queue (watchfiles) cost tens of milliseconds at each change and most of an idle agent's
processor time; asyncinotify waits on the descriptor itself.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import asyncinotify
from asyncinotify import Mask

_CONTENT = Mask.CLOSE_WRITE | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.CREATE | Mask.DELETE
_MASK = _CONTENT | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR


class Inotify:
    """Watches directories, not what is below them. For one event loop and one waiter; ``close`` it."""

    def __init__(self, directories: Iterable[Path]) -> None:
        """Raises OSError: a directory is not there, or the system has no instances or watches left."""
        self._inotify = asyncinotify.Inotify(sync_timeout=0)
        try:
            for directory in directories:
                _watch(self._inotify, directory)
        except OSError:
            self._inotify.close()
            raise
        self._watches = len(self._inotify.watches)

    @property
    def stands(self) -> bool:
        """Whether every directory is still watched: a watch ends with its directory, and the next one of that name may
        have its inode number."""
        return len(self._inotify.watches) == self._watches

    async def changed(self) -> None:
        """Wait for a change since the watch was made, or since this last returned."""
        await self._inotify.get()
        while self._inotify.sync_get() is not None:  # a switch is half a dozen events, and one change
            pass

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()


def _watch(inotify: asyncinotify.Inotify, directory: Path) -> None:
    try:
        inotify.add_watch(directory, _MASK)
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, os.strerror(number), str(directory)) from None
