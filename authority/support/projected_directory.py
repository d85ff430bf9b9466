"""A directory with the layout of the kubelet's Secret mounts, switched atomically as they are.

::

    ca.crt -> ..data/ca.crt
    bundle.note -> ..data/bundle.note
    ..data -> ..2026_01_02_15_04_05.3f1a90
    ..2026_01_02_15_04_05.3f1a90/{ca.crt,bundle.note}

A change makes a new ``..<time>`` directory, renames ``..data_tmp`` over ``..data``, adds the links of new keys and
removes the old directory: a reader that resolves ``..data`` once never sees files of two sets, and a killed writer
leaves the old set or the new one. Nothing is synced to the disk, as the kubelet syncs nothing: damage by a power cut is
found when the publisher next compares the target with the bundle, and agents verify before they use it.

A writer changes its own files and carries the others over: the bundle and a leaf may share a directory, and then switch
as one. A lock on the directory keeps writers apart, also those of different processes. Everything here blocks.
"""

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from authority.support import atomic_files

DATA = "..data"
_DATA_TEMPORARY = "..data_tmp"
_LINK_TEMPORARY = "..link_tmp"
_GENERATION = re.compile(r"\.\.\d{4}(_\d\d){5}\.[0-9a-f]{6}")
_LARGEST = 1024 * 1024
_PATIENCE = 3.0
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file's bytes and the mode it has."""

    data: bytes
    mode: int


def read(directory: Path, name: str) -> bytes | None:
    """A file of the current set; None where there is none. Raises OSError."""
    try:
        with (directory / DATA / name).open("rb") as file:
            return file.read(_LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_linked(directory: Path, name: str) -> bool:
    """Whether ``name`` links to the current set; an editor that saves by renaming replaces the link."""
    try:
        return (directory / name).readlink() == Path(DATA, name)
    except OSError:
        return False


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep every other writer out of the directory, which is made where it is missing.

    Raises:
        OSError: the lock failed, or another writer (one that is paused, perhaps) held it for too long.
    """
    atomic_files.make_directory(directory, mode=0o755)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    for _ in range(int(_PATIENCE / _PAUSE)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
        else:
            return
    raise TimeoutError(f"another writer that has held its lock for {_PATIENCE:g} s; is a process paused? (lslocks)")


def switch(directory: Path, files: dict[str, FileContent], now: int) -> None:
    """Make the directory show ``files``, as one, beside its other files. Call it under ``locked``.

    Raises:
        OSError: the switch failed; the directory shows the old set or the new one as a whole.
    """
    generation = _new_generation(directory, _carried_over(directory) | files, now)
    _link(directory, DATA, Path(generation.name), through=_DATA_TEMPORARY)
    for name in files:
        if not is_linked(directory, name):
            _link(directory, name, Path(DATA, name), through=_LINK_TEMPORARY)
    # Old sets, also those that a crash left behind.
    for old in directory.iterdir():
        if _GENERATION.fullmatch(old.name) and old.name != generation.name:
            shutil.rmtree(old)


def _carried_over(directory: Path) -> dict[str, FileContent]:
    """The files of the current set."""
    current = directory / DATA
    if not current.is_dir():
        return {}
    return {
        path.name: FileContent(path.read_bytes(), path.stat().st_mode & 0o777)
        for path in current.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


def _new_generation(directory: Path, files: Mapping[str, FileContent], now: int) -> Path:
    """A directory with these files, in the group of ``directory``."""
    generation = directory / f"..{datetime.fromtimestamp(now, UTC):%Y_%m_%d_%H_%M_%S}.{secrets.token_hex(3)}"
    generation.mkdir()
    try:
        group = directory.stat().st_gid
        _regroup(generation, group)
        generation.chmod(0o755)
        for name, content in files.items():
            file = generation / name
            file.touch(mode=0o600)
            file.write_bytes(content.data)
            _regroup(file, group)
            # The mode comes after the group: no other group ever reads the file.
            file.chmod(content.mode)
    except OSError:
        shutil.rmtree(generation)
        raise
    return generation


def _regroup(path: Path, group: int) -> None:
    if path.stat().st_gid != group:
        os.chown(path, -1, group)


def _link(directory: Path, name: str, to: Path, through: str) -> None:
    """Replace ``name`` by a link; at no instant is the name missing."""
    temporary = directory / through
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    temporary.replace(directory / name)
