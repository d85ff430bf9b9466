"""Calls into nats-py that end in time.

nats-py swallows a cancellation that arrives while it wakes its flusher, so a task is cancelled until it has ended.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_CANCEL_AGAIN_SECONDS = 0.2


async def bounded(work: Coroutine[Any, Any, T], within: float, *, name: str) -> T:
    """Await ``work`` for at most ``within`` seconds; raises TimeoutError, and what ``work`` raises."""
    task = asyncio.create_task(work, name=name)
    try:
        done, _ = await asyncio.wait({task}, timeout=within)
    finally:
        await end(task)
    if not done:
        raise TimeoutError(f"expected an answer within {within:g} s, found none")
    return task.result()


async def unbounded(work: Coroutine[Any, Any, T], *, name: str) -> T:
    """Await ``work`` without a time limit; a cancellation of the caller ends ``work`` as well."""
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait({task})
    finally:
        await end(task)
    return task.result()


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel ``task`` until it has ended."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)
