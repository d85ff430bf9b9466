"""The sources: mounted Secret directories and the trust file, read whole and watched for their switches.

A mount is live when its files are behind ``..data``, which the kubelet renames over: then a read never mixes two
revisions, and a change is seen at once. Anything else (a ``subPath`` mount, a plain directory) is read all the same,
and named, because a kubelet would never update it.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.sources.inotify import Inotify
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE
from tidemark.verify import MAX_BYTES

DATA = "..data"
BUNDLE_FILES = (CA_FILE, NOTE_FILE)
LEAF_FILES = (LEAF_FILE, KEY_FILE)

_REREAD_SECONDS = 60.0
_MISSING_SECONDS = 1.0
_READS = 5


@dataclass(frozen=True, slots=True)
class MountFault:
    """Why a mount shows no files; ``reason`` is one word, ``detail`` names the path, expected and found."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class MountContents:
    """What one mount showed. ``files`` by name, or None with the ``fault``; ``moved_at``: when it switched to them, by
    the wall clock; ``not_live``: why it would never be updated ("" where it is live)."""

    files: Mapping[str, bytes] | None
    moved_at: float = 0.0
    fault: MountFault | None = None
    not_live: str = ""


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """One look at everything; ``leaf`` is None where no leaf is managed; ``watch_fault`` says why changes are noticed
    only at the next look ("" where they are noticed at once); ``seen_at`` by the wall clock."""

    bundle: MountContents
    leaf: MountContents | None
    trust: MountContents
    watch_fault: str = ""
    seen_at: float = 0.0


class _Switched(Exception):
    """The mount switched while it was read."""


def look_at(mount: Path, names: Iterable[str]) -> MountContents:
    """Read a mount's files, all of one revision."""
    for _ in range(_READS):
        try:
            return _look_at(mount, tuple(names))
        except _Switched:
            continue
    return MountContents(
        None,
        fault=MountFault("unstable", f"{mount}: expected to be read between two switches, found {_READS} in a row"),
    )


def _look_at(mount: Path, names: Sequence[str]) -> MountContents:
    data = mount / DATA
    try:
        before = data.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _look_at_plain(mount, names)
    except OSError as error:
        return MountContents(None, fault=_unreadable(data, error))
    if not stat.S_ISLNK(before.st_mode):
        return _look_at_plain(mount, names)
    try:
        folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return _again_or(data, before, MountContents(None, fault=_unreadable(data, error)))
    try:
        files = {name: _read(Path(name), folder) for name in names}
    except OSError as error:
        fault = _unreadable(mount / str(error.filename), error)
        return _again_or(data, before, MountContents(None, before.st_ctime, fault))
    finally:
        os.close(folder)
    return _again_or(data, before, MountContents(files, before.st_ctime))


def _again_or(data: Path, before: os.stat_result, look: MountContents) -> MountContents:
    """``look``, if the mount has not switched since."""
    try:
        now = data.lstat()
    except OSError:
        raise _Switched from None
    if (now.st_ino, now.st_ctime_ns) != (before.st_ino, before.st_ctime_ns):
        raise _Switched
    return look


def _look_at_plain(mount: Path, names: Sequence[str]) -> MountContents:
    if not mount.exists():
        return MountContents(
            None, fault=MountFault("mount_missing", f"{mount}: expected a mounted directory, found nothing yet")
        )
    if not mount.is_dir():
        detail = (
            f"{mount}: expected a directory, found a file: a subPath mount is never updated; mount the whole Secret"
        )
        return MountContents(None, fault=MountFault("mount_not_live", detail), not_live=detail)
    not_live = f"{mount}: expected {DATA}, as the kubelet makes it, found none: it would never be updated"
    try:
        files = {name: _read(mount / name, None) for name in names}
        moved_at = max((mount / name).stat().st_mtime for name in names)
    except OSError as error:
        return MountContents(None, fault=_unreadable(mount / str(error.filename), error), not_live=not_live)
    return MountContents(files, moved_at, not_live=not_live)


def _read(path: Path, folder: int | None) -> bytes:
    """A file's content, as far as the largest bundle that is accepted, and one byte more."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    try:
        # Not the file object's to close: where the path is a directory, there is none that would.
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # named by what it is, not by its descriptor
    finally:
        os.close(fd)


def _unreadable(path: Path, error: OSError) -> MountFault:
    return MountFault("source_unreadable", f"{path}: expected a readable file, found {error.strerror}")


class MountSources:
    """Watches the mounts and the trust file; hands on each new sight of them."""

    def __init__(self, bundle: Path, leaf: Path | None, trust: Path) -> None:
        self._bundle = bundle
        self._leaf = leaf
        self._trust = trust
        self._paths = tuple(dict.fromkeys(path for path in (bundle, leaf, trust.parent) if path is not None))

    def look(self) -> SourceSnapshot:
        """Look at everything once."""
        leaf = look_at(self._leaf, LEAF_FILES) if self._leaf else None
        return SourceSnapshot(look_at(self._bundle, BUNDLE_FILES), leaf, self._look_at_trust())

    def _look_at_trust(self) -> MountContents:
        try:
            return MountContents({self._trust.name: _read(self._trust, None)}, self._trust.stat().st_mtime)
        except OSError as error:
            return MountContents(
                None, fault=MountFault("trust", f"{self._trust}: expected the trust file, found {error.strerror}")
            )

    async def run(self, deliver: Callable[[SourceSnapshot], None]) -> None:
        """Deliver the first sight, and then each one that differs from the last; runs until it is cancelled."""
        shown: object = None
        while True:
            with _Watch(self._directories()) as watch:
                while watch.stands and watch.directories == self._directories():
                    # The watch stands before the look: a switch in between wakes it.
                    sighting = replace(self.look(), watch_fault=watch.fault)
                    if _shows(sighting) != shown:
                        shown = _shows(sighting)
                        deliver(sighting)
                    complete = len(watch.directories) == len(self._paths)
                    await watch.changed(_REREAD_SECONDS if complete else _MISSING_SECONDS)
                    if watch.fault:
                        break  # and try to watch again

    def _directories(self) -> dict[Path, tuple[int, int]]:
        """The directories to watch, as far as they exist, with what tells them from others of the same name."""
        found = {}
        for path in self._paths:
            with contextlib.suppress(OSError):
                status = path.stat()
                if stat.S_ISDIR(status.st_mode):
                    found[path] = (status.st_dev, status.st_ino)
        return found


def _shows(sighting: SourceSnapshot) -> object:
    """What makes two sights differ: files and faults, not when they came."""
    looks = (sighting.bundle, sighting.leaf, sighting.trust)
    return [look and (look.files, look.fault, look.not_live) for look in looks], sighting.watch_fault


class _Watch:
    """A watch on directories (never on files: a switch replaces those, and the watch would be blind).

    ``fault`` says why there is none, where the system has no watches left; then ``changed`` only waits.
    """

    def __init__(self, directories: dict[Path, tuple[int, int]]) -> None:
        self.directories = directories
        self.fault = ""
        self._inotify: Inotify | None = None
        try:
            self._inotify = Inotify(directories)
        except OSError as error:
            names = ", ".join(map(str, directories))
            self.fault = (
                f"expected to watch {names}, found {error.strerror}; looking every {_REREAD_SECONDS:.0f} s instead"
            )

    @property
    def stands(self) -> bool:
        """Whether no directory has ended under it."""
        return self._inotify is None or self._inotify.stands

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._inotify is not None:
            self._inotify.close()

    async def changed(self, within: float) -> None:
        """Return when something changed since the watch was made or last asked, or ``within`` seconds later."""
        try:
            async with asyncio.timeout(within):
                await (self._inotify.changed() if self._inotify else asyncio.Event().wait())
        except TimeoutError:
            return
