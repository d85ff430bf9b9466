"""A watch on directories: inotify announces changes of some, the others are polled.

Directories are watched, never files: a switch replaces a file, and a watch on it would be blind from then on.
"""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol

from agent.sources.inotify import Inotify

Identity = tuple[int, int]
"""Device and inode of a directory: what tells it from another directory of the same name."""


class WatchMode(StrEnum):
    """How changes of the mounts are noticed, before the regular reading."""

    AUTO = "auto"
    """By inotify; a mount of which inotify announces nothing, or for which nothing of inotify is left, is polled."""
    INOTIFY = "inotify"
    """By inotify alone."""
    POLL = "poll"
    """By polling alone."""


class _ChangeSource(Protocol):
    async def changed(self) -> frozenset[Path]:
        """Wait until a reading is due; returns the directories of which inotify announced a change."""

    async def close(self) -> None:
        """Stop."""


class DirectoryWatch:
    """Waits for changes of directories. For one event loop and one waiter; a context manager."""

    def __init__(self, directories: Mapping[Path, Identity], unannounced: Mapping[Path, str], mode: WatchMode) -> None:
        """``unannounced``: directories that inotify does not serve, each with the reason."""
        self.directories = directories
        self.refused: Mapping[Path, str] = {}
        """Directories that inotify did not take, each with the reason: worth another try later."""
        self.by_inotify: frozenset[Path] = frozenset()
        """Directories of which inotify announces changes."""
        self._inotify: Inotify | None = None
        self._waits: dict[_ChangeSource, asyncio.Task[frozenset[Path]] | None] = {}
        if mode is not WatchMode.POLL:
            self._start_inotify([path for path in directories if path not in unannounced])
        self.polled: Mapping[Path, str] = {}
        """Directories that are polled, each with what inotify lacks there (empty: ``poll`` is configured)."""
        if mode is not WatchMode.INOTIFY:
            reasons = {**unannounced, **{path: f"found {reason}" for path, reason in self.refused.items()}}
            self.polled = {path: reasons.get(path, "") for path in directories if path not in self.by_inotify}
        if self.polled:
            # Only now: watchfiles takes megabytes, and an agent whose mounts inotify serves need not have it.
            from agent.sources.polling import Poller  # noqa: PLC0415

            self._waits[Poller(list(self.polled))] = None

    def _start_inotify(self, directories: list[Path]) -> None:
        try:
            self._inotify = Inotify(directories)
        except OSError as error:
            self.refused = dict.fromkeys(directories, error.strerror or str(error))
            return
        self.refused = self._inotify.failures
        self.by_inotify = frozenset(directories) - self.refused.keys()
        self._waits[self._inotify] = None

    @property
    def is_complete(self) -> bool:
        """Whether no directory that inotify serves has ended."""
        return self._inotify is None or self._inotify.is_complete

    async def __aenter__(self) -> "DirectoryWatch":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        waits = [wait for wait in self._waits.values() if wait is not None]
        for wait in waits:
            wait.cancel()
        try:
            # A cancellation of the caller that arrives here waits for these tasks too, and is raised then: the agent
            # would not stop without it.
            outcomes = await asyncio.gather(*waits, return_exceptions=True)
        finally:
            for source in self._waits:
                await source.close()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def changed(self, within: float) -> frozenset[Path]:
        """Wait until a reading is due, at most so many seconds.

        Returns the directories of which inotify announced a change since the watch was made or this last returned.
        """
        # A wait that is not over is kept for the next call: cancelled, it would lose what it has found by then.
        for source, wait in self._waits.items():
            if wait is None:
                self._waits[source] = asyncio.create_task(source.changed(), name=type(source).__name__)
        waits = [wait for wait in self._waits.values() if wait is not None]
        if not waits:
            await asyncio.sleep(within)
            return frozenset()
        done, _ = await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        self._waits = {source: None if wait in done else wait for source, wait in self._waits.items()}
        return frozenset[Path]().union(*(wait.result() for wait in done))
