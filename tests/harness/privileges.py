"""Tests as an ordinary user, where root runs them."""

import contextlib
import os
from collections.abc import Iterator

NOBODY = 65534
"""The user and group id of ``nobody``."""


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Run the block as the user ``nobody`` where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
