"""Waits for an event that a test expects; the limit is generous, so that a loaded machine fails no test."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds until a test gives up; far above what any event takes."""

_INTERVAL = 0.01
"""Seconds between two evaluations of a condition."""


@overload
async def eventually(condition: Callable[[], Awaitable[T | None]], what: str, patience: float = PATIENCE) -> T: ...
@overload
async def eventually(condition: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T: ...
async def eventually(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> object:
    """Return the first true value of the condition, which may be a coroutine; AssertionError names ``what``."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        await asyncio.sleep(_INTERVAL)
    raise AssertionError(f"expected within {patience:g} s, found not even then: {what}")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Block until the condition is true, for programs without an event loop; AssertionError names ``what``."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"expected within {PATIENCE:g} s, found not even then: {what}"
        time.sleep(_INTERVAL)
