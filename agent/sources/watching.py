"""Watches the mounts and the trust file, and delivers each reading that differs from the one before.

A mount is read when inotify announces a change, when polling finds one, and once a minute in any case. Not every file
system announces what changes it: gVisor, virtiofs, FUSE, NFS and Docker Desktop change files behind the kernel's back.
What the regular reading finds there, and no event announced, tells that such a mount has to be polled.
"""

import asyncio
import contextlib
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent.sources.directory_watch import DirectoryWatch, Identity, WatchMode
from agent.sources.mounts import (
    BUNDLE_FILES,
    LEAF_FILES,
    MountContents,
    SourceSnapshot,
    read_mount,
    read_trust_file,
)

_Contents = Mapping[Path, tuple[MountContents, ...]]


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """How long the watch waits, in seconds."""

    reread: float = 60.0
    """Between two regular readings, and before a directory that inotify refused is offered to it again."""
    missing: float = 1.0
    """The same while a directory is missing: nothing announces that it comes."""
    announcement: float = 1.0
    """For the event of a change that a reading has found already."""


class MountSources:
    """The mounts of bundle and leaf, and the trust file."""

    def __init__(
        self,
        bundle: Path,
        leaf: Path | None,
        trust: Path,
        mode: WatchMode = WatchMode.AUTO,
        times: WatchTimes | None = None,
    ) -> None:
        self._bundle = bundle
        self._leaf = leaf
        self._trust = trust
        self._mode = mode
        self._times = times or WatchTimes()
        self._paths = tuple(dict.fromkeys(path for path in (bundle, leaf, trust.parent) if path is not None))
        self._unannounced: dict[Path, str] = {}

    def read(self) -> SourceSnapshot:
        """Read everything once."""
        leaf = read_mount(self._leaf, LEAF_FILES) if self._leaf else None
        return SourceSnapshot(read_mount(self._bundle, BUNDLE_FILES), leaf, read_trust_file(self._trust))

    async def run(self, deliver: Callable[[SourceSnapshot], None]) -> None:
        """Deliver the first reading, and then each one that differs from the last; runs until it is cancelled."""
        delivered: object = None

        def read(watch: DirectoryWatch) -> _Contents:
            nonlocal delivered
            snapshot = replace(self.read(), watch_fault=self._fault(watch), polled=watch.polled)
            if _comparable(snapshot) != delivered:
                delivered = _comparable(snapshot)
                deliver(snapshot)
            return self._by_directory(snapshot)

        while True:
            async with DirectoryWatch(self._directories(), self._unannounced, self._mode) as watch:
                await self._follow(watch, read)

    async def _follow(self, watch: DirectoryWatch, read: Callable[[DirectoryWatch], _Contents]) -> None:
        """Read whenever a reading is due, as long as this watch serves; another watch follows it."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._times.reread
        within = self._times.reread if len(watch.directories) == len(self._paths) else self._times.missing
        announced: frozenset[Path] = frozenset()
        before: _Contents = {}
        while watch.is_complete and watch.directories == self._directories():
            # The watch begins before the reading: a change in between ends the wait below at once.
            contents = read(watch)
            silent = _changed(before, contents) & watch.by_inotify - announced
            if silent and self._mode is WatchMode.AUTO:
                announced = await self._late_events(watch, silent)
                if silent - announced and watch.directories == self._directories():
                    reason = "found a change that no event of inotify announced"
                    self._unannounced |= dict.fromkeys(silent - announced, reason)
                    return
            else:
                announced = await watch.changed(within)
            if watch.refused and loop.time() >= ends:
                return  # another program may have given up its watches
            before = contents

    async def _late_events(self, watch: DirectoryWatch, changed: frozenset[Path]) -> frozenset[Path]:
        """The directories of which events come within a moment: a reading may be ahead of the event by that much."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._times.announcement
        announced: frozenset[Path] = frozenset()
        while changed - announced and (left := ends - loop.time()) > 0:
            announced |= await watch.changed(left)
        return announced

    def _directories(self) -> dict[Path, Identity]:
        """The directories to watch, as far as they exist."""
        found = {}
        for path in self._paths:
            with contextlib.suppress(OSError):  # the reading says what is wrong with it
                status = path.stat()
                if stat.S_ISDIR(status.st_mode):
                    found[path] = (status.st_dev, status.st_ino)
        return found

    def _fault(self, watch: DirectoryWatch) -> str:
        unserved = {path: reason for path, reason in watch.refused.items() if path not in watch.polled}
        if not unserved:
            return ""
        names, reasons = ", ".join(map(str, unserved)), ", ".join(dict.fromkeys(unserved.values()))
        return f"expected to watch {names}, found {reasons}; looking every {self._times.reread:.0f} s instead"

    def _by_directory(self, snapshot: SourceSnapshot) -> _Contents:
        parts = [(self._bundle, snapshot.bundle), (self._trust.parent, snapshot.trust)]
        if self._leaf is not None and snapshot.leaf is not None:
            parts.append((self._leaf, snapshot.leaf))
        return {path: tuple(part for of, part in parts if of == path) for path, _ in parts}


def _changed(before: _Contents, after: _Contents) -> frozenset[Path]:
    """Directories with other files than before; a fault may come of permissions, which no event announces."""

    def files(parts: tuple[MountContents, ...]) -> list[Mapping[str, bytes] | None]:
        return [part.files for part in parts]

    return frozenset(
        path
        for path, parts in after.items()
        if path in before and None not in files(parts) and files(parts) != files(before[path])
    )


def _comparable(snapshot: SourceSnapshot) -> object:
    """What makes two readings differ: files and faults, not when they came."""
    parts = (snapshot.bundle, snapshot.leaf, snapshot.trust)
    contents = [part and (part.files, part.fault, part.not_live) for part in parts]
    return contents, snapshot.watch_fault, snapshot.polled
