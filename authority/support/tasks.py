"""Runs long-lived tasks side by side; an unexpected end of any is an error."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Never

Task = Callable[[], Coroutine[Any, Any, None]]


async def until(end: Awaitable[object], tasks: Mapping[str, Task]) -> None:
    """Run all of these until ``end`` has come. One that fails, or ends by itself, ends all of them with its error."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_for_ever(name, task), name=name) for name, task in tasks.items()]
        await end
        for task in running:
            task.cancel()


async def _for_ever(name: str, task: Task) -> Never:
    await task()
    raise RuntimeError(f"task {name!r}: expected it to run until it is stopped, found that it ended")
