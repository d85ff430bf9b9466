"""Files that survive a crash: written beside their place, synced, and renamed into it."""

import os
from pathlib import Path

FILE_MODE = 0o640


def write_new(path: Path, data: bytes) -> None:
    """Write a file that does not exist yet, with the group of its directory; durable once the directory is synced."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        group = path.parent.stat().st_gid
        if os.fstat(fd).st_gid != group:
            os.fchown(fd, -1, group)
        os.fchmod(fd, FILE_MODE)  # whatever the umask
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of ``path``: whole or not at all, durable when this returns."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    write_new(fresh, data)
    fresh.rename(path)
    sync_directory(path.parent)
