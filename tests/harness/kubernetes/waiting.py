"""Waiting for something to have happened: looked for again and again, with a generous end."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 30.0


async def until(look: Callable[[], T], what: str) -> T:
    """Look until there is something; fails naming ``what``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while loop.time() < deadline:
        if found := look():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"expected {what} within {PATIENCE} s, it did not happen")
