"""Changes in directories, announced by inotify(7): at once, and nothing runs while there are none.

Libraries that poll a thread's queue cost tens of milliseconds at each change and most of an idle agent's processor
time; asyncinotify waits on the descriptor itself (decision 14).
"""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import asyncinotify
from asyncinotify import Mask

_CONTENT = Mask.CLOSE_WRITE | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.CREATE | Mask.DELETE
_MASK = _CONTENT | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR


class Inotify:
    """Watches directories, not what is below them. For one event loop and one waiter; ``close`` it."""

    def __init__(self, directories: Iterable[Path]) -> None:
        """Raises OSError where the system has no instance left (inotify_init(2))."""
        self._inotify = asyncinotify.Inotify(sync_timeout=0)
        self.failures: dict[Path, str] = {}
        # Two paths may lead to one directory (a volume that is mounted twice): one watch serves both.
        self._paths: dict[int, set[Path]] = {}
        for directory in directories:
            try:
                watch = self._inotify.add_watch(directory, _MASK)
            except OSError as error:
                self.failures[directory] = os.strerror(error.errno or 0)
            else:
                self._paths.setdefault(watch.wd, set()).add(directory)

    @property
    def is_complete(self) -> bool:
        """Whether every directory is still watched: a watch ends with its directory, and the next directory of that
        name may have the same inode number."""
        return len(self._inotify.watches) == len(self._paths)

    async def changed(self) -> frozenset[Path]:
        """Wait for events; returns the directories that they announce a change of."""
        events = [await self._inotify.get()]
        while (event := self._inotify.sync_get()) is not None:  # a switch is half a dozen events, and one change
            events.append(event)
        if any(Mask.Q_OVERFLOW in event.mask for event in events):
            return _union(self._paths.values())  # the kernel has dropped events, of any of the directories
        return _union(self._paths[event.watch.wd] for event in events if event.watch is not None)

    async def close(self) -> None:
        """Stop watching."""
        self._inotify.close()


def _union(groups: Iterable[Collection[Path]]) -> frozenset[Path]:
    return frozenset(path for group in groups for path in group)
