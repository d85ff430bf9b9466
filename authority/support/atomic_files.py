"""Atomic, durable files: on the disk as a whole before the call returns, or not there at all.

Each write is a temporary file, fsync, rename (or link), fsync of the directory. Every function blocks on the disk: from
a coroutine, call it through ``asyncio.to_thread``. Temporary files start with a dot and end in ``.tmp``; a crash may
leave one behind, and readers ignore them.
"""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

SECRET = 0o600
"""Mode of files that only the authority may read."""

PUBLIC = 0o644
"""Mode of files that every user may read."""


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Write ``path`` with exactly this mode, in place of a file that exists. Raises OSError."""
    temporary = _written(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def create_file(path: Path, data: bytes, mode: int) -> None:
    """Write ``path`` where no file exists: of several writers at once, one wins.

    Raises:
        FileExistsError: the name is taken; that file is left alone.
        OSError: it could not be written.
    """
    temporary = _written(path, data, mode)
    try:
        # Unlike rename, fails where the name is taken.
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def write_together(directory: Path, files: Mapping[str, tuple[bytes, int]], *, over: bool) -> None:
    """Write files (name -> data and mode): all are on the disk before the first of them takes its name.

    Raises:
        FileExistsError: a name is taken, and ``over`` is False; nothing was changed.
        OSError: they could not be written.
    """
    temporary: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for name, (data, mode) in files.items():
            temporary[directory / name] = _written(directory / name, data, mode)
        for path, written in temporary.items():
            if over:
                written.replace(path)
            else:
                os.link(written, path)
                placed.append(path)
    except OSError:
        for path in placed:
            path.unlink()
        raise
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)
    sync_directory(directory)


def write_new(path: Path, data: bytes, mode: int = SECRET) -> None:
    """Write and sync a new file where no reader looks yet, such as in a directory that is renamed into place later."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, SECRET)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        # After the data: a reader that the mode admits finds the file whole. The umask does not count.
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make a directory and its missing parents; an existing directory stays as it is."""
    missing = [path, *path.parents]
    missing = missing[: next(i for i, directory in enumerate(missing) if directory.exists())]
    for directory in reversed(missing):
        directory.mkdir(mode=mode, exist_ok=True)
        sync_directory(directory.parent)


def create_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a directory (0700) of secret files that appears as a whole.

    Raises:
        OSError: the name is taken, or the directory could not be written.
    """
    temporary = _temporary(path)
    temporary.mkdir(mode=0o700)
    try:
        for name, data in files.items():
            write_new(temporary / name, data)
        sync_directory(temporary)
        # The rename fails where a directory that is not empty has the name.
        temporary.rename(path)
    except OSError:
        shutil.rmtree(temporary)
        raise
    sync_directory(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory and its files as a whole; a directory that is gone already is no error."""
    temporary = _temporary(path)
    try:
        path.rename(temporary)
    except FileNotFoundError:
        return
    sync_directory(path.parent)
    shutil.rmtree(temporary)


def sweep(path: Path) -> None:
    """Remove the temporary files and directories that a crash left in ``path``; no writer may be at work there."""
    for leftover in path.glob(".*.tmp"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make what was renamed, linked, made or removed in this directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _written(path: Path, data: bytes, mode: int) -> Path:
    """A synced temporary file beside ``path``."""
    temporary = _temporary(path)
    try:
        write_new(temporary, data, mode)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
