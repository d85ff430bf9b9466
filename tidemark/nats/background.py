"""Tasks that run beside a connection and end with it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


class BackgroundTasks:
    """Holds each task until it ends; exceptions of a task go to ``on_error``."""

    def __init__(self, on_error: Callable[[Exception], Awaitable[None]]) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Run ``work`` as a task of its own."""
        task = asyncio.create_task(self._guard(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> set[asyncio.Task[Any]]:
        """Cancel every task but the one that calls, and return those that were cancelled.

        A task may close the connection itself; if it cancelled itself, the connection would stay half closed.
        """
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        return others

    async def end(self) -> None:
        """Cancel every task but the one that calls, and wait until they have ended."""
        await asyncio.gather(*self.cancel(), return_exceptions=True)

    async def _guard(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 # any kind: the application's error callback gets it
            await self._on_error(error)
