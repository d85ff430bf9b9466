"""Calls into nats-py that end in time: it swallows a cancellation that reaches it while it kicks the flusher."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_INSIST_SECONDS = 0.2


async def bounded(work: Coroutine[Any, Any, T], within: float, *, name: str) -> T:
    """Wait up to so many seconds for it; raises TimeoutError, and what the work raises."""
    task = asyncio.create_task(work, name=name)
    try:
        done, _ = await asyncio.wait({task}, timeout=within)
    finally:
        await end(task)
    if not done:
        raise TimeoutError(f"expected an answer within {within:g} s, found none")
    return task.result()


async def unbounded(work: Coroutine[Any, Any, T], *, name: str) -> T:
    """Wait for it as long as it takes; a cancellation reaches it all the same."""
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait({task})
    finally:
        await end(task)
    return task.result()


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel it until it has ended."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_INSIST_SECONDS)
