"""Atomic, durable writes: a file is written under another name, synced, and renamed into place."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

FILE_MODE = 0o640


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write new files with the group of their directory; durable once the directory is synced as well. Raises OSError.

    All files are written before the first is synced: a journaling file system then commits them together.
    """
    group = folder.stat().st_gid
    with ExitStack() as stack:
        written = []
        for name, data in files.items():
            fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            stack.callback(os.close, fd)
            if os.fstat(fd).st_gid != group:
                os.fchown(fd, -1, group)
            os.fchmod(fd, FILE_MODE)  # open applied the umask
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            written.append(fd)
        for fd in written:
            os.fsync(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, whole or not at all; durable once its directory is synced. Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    write_all(path.parent, {fresh.name: data})
    fresh.rename(path)
