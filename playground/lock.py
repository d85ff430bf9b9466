"""One playground at a time in one directory."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Occupied(Exception):
    """Another playground runs in the same directory."""


@contextlib.contextmanager
def occupied(directory: Path) -> Iterator[None]:
    """Hold the directory itself (flock(2), gone with the process); raises Occupied."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Occupied(f"{directory}: another playground runs here; stop it, or use --directory") from None
    finally:
        os.close(descriptor)
