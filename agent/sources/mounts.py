"""Reads the mounts: mounted Secret directories and the trust file, each one whole.

A mount is live when its files are behind ``..data``, a link that the kubelet replaces by a rename: then a reading never
mixes two revisions. Anything else (a ``subPath`` mount, a plain directory) is read all the same and reported, because a
kubelet would never update it.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE
from tidemark.verify import MAX_BYTES

DATA = "..data"
BUNDLE_FILES = (CA_FILE, NOTE_FILE)
LEAF_FILES = (LEAF_FILE, KEY_FILE)

_READS = 5


@dataclass(frozen=True, slots=True)
class MountFault:
    """Why a mount has no usable files."""

    reason: str
    """One word, for metrics and receipts."""
    detail: str
    """Names the path, what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class MountContents:
    """The files of one mount, or why there are none."""

    files: Mapping[str, bytes] | None
    """Content by file name; None with a ``fault``."""
    moved_at: float = 0.0
    """When the mount switched to these files, in seconds of the wall clock."""
    fault: MountFault | None = None
    not_live: str = ""
    """Why a kubelet would never update this mount; empty where it would."""


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """One reading of every mount."""

    bundle: MountContents
    leaf: MountContents | None
    """None where no leaf is managed."""
    trust: MountContents
    watch_fault: str = ""
    """Why changes are noticed only by the next regular reading; empty where they are noticed earlier."""
    polled: Mapping[Path, str] = field(default_factory=dict)
    """Directories that are polled, each with what inotify lacks there (empty: ``poll`` is configured)."""
    seen_at: float = 0.0
    """When the cycle took the reading up, in seconds of the wall clock."""


class _Switched(Exception):
    """The mount switched while its files were read."""


def read_mount(mount: Path, names: Iterable[str]) -> MountContents:
    """Read these files of a mount, all of one revision."""
    for _ in range(_READS):
        try:
            return _read_once(mount, tuple(names))
        except _Switched:
            continue
    return MountContents(
        None,
        fault=MountFault("unstable", f"{mount}: expected to be read between two switches, found {_READS} in a row"),
    )


def read_trust_file(path: Path) -> MountContents:
    """Read the trust file, as a mount of one file."""
    try:
        return MountContents({path.name: _read_file(path, None)}, path.stat().st_mtime)
    except OSError as error:
        return MountContents(
            None, fault=MountFault("trust", f"{path}: expected the trust file, found {error.strerror}")
        )


def _read_once(mount: Path, names: Sequence[str]) -> MountContents:
    data = mount / DATA
    try:
        before = data.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _read_plain(mount, names)
    except OSError as error:
        return MountContents(None, fault=_unreadable(data, error))
    if not stat.S_ISLNK(before.st_mode):
        return _read_plain(mount, names)
    try:
        folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return _unless_switched(data, before, MountContents(None, fault=_unreadable(data, error)))
    try:
        files = {name: _read_file(Path(name), folder) for name in names}
    except OSError as error:
        fault = _unreadable(mount / str(error.filename), error)
        return _unless_switched(data, before, MountContents(None, before.st_ctime, fault))
    finally:
        os.close(folder)
    return _unless_switched(data, before, MountContents(files, before.st_ctime))


def _unless_switched(data: Path, before: os.stat_result, contents: MountContents) -> MountContents:
    """Return ``contents``; raises _Switched if the mount has switched since."""
    try:
        now = data.lstat()
    except OSError:
        raise _Switched from None
    if (now.st_ino, now.st_ctime_ns) != (before.st_ino, before.st_ctime_ns):
        raise _Switched
    return contents


def _read_plain(mount: Path, names: Sequence[str]) -> MountContents:
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
        files = {name: _read_file(mount / name, None) for name in names}
        moved_at = max((mount / name).stat().st_mtime for name in names)
    except OSError as error:
        return MountContents(None, fault=_unreadable(mount / str(error.filename), error), not_live=not_live)
    return MountContents(files, moved_at, not_live=not_live)


def _read_file(path: Path, folder: int | None) -> bytes:
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
