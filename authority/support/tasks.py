"""Runs long-lived tasks side by side; an unexpected end of any is an error."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Never

Task = Callable[[], Coroutine[Any, Any, None]]


async def until(end: Awaitable[object], tasks: Mapping[str, Task]) -> None:
    """Run the tasks, by their names, until ``end`` completes. A task that fails or returns ends all, with its error."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_guarded(name, task), name=name) for name, task in tasks.items()]
        await end
        for task in running:
            task.cancel()


async def _guarded(name: str, task: Task) -> Never:
    await task()
    raise RuntimeError(f"task {name!r}: expected it to run until it is stopped, found that it ended")
