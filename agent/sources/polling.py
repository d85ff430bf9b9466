"""Changes in directories that inotify does not announce, found by polling with watchfiles.

Imported only where a directory is polled: the library and its threads take memory that other agents need not have
(decision 36). It reads metadata in a thread of its own, so a slow file system does not stop the agent.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

from watchfiles import awatch

from agent import log

_POLL_MS = 300
_STEP_MS = 100
_LONGEST_MS = 700
"""A reading is due this often, whatever was found: watchfiles compares times in whole seconds, and misses the second of
two changes of a file in one second."""


class Poller:
    """Polls directories, not what is below them. For one event loop and one waiter; ``close`` it."""

    def __init__(self, directories: Collection[Path]) -> None:
        self._ticks = _ticks(directories)

    async def changed(self) -> frozenset[Path]:
        """Wait until a reading is due: a change was found, or 0.7 s have passed. No inotify event announced it."""
        await anext(self._ticks)
        return frozenset()

    async def close(self) -> None:
        """Stop polling."""
        await self._ticks.aclose()


async def _ticks(directories: Collection[Path]) -> AsyncGenerator[None, None]:
    while True:
        changes = awatch(
            *directories,
            watch_filter=None,
            debounce=_STEP_MS,
            step=_STEP_MS,
            rust_timeout=_LONGEST_MS,
            yield_on_timeout=True,
            force_polling=True,
            poll_delay_ms=_POLL_MS,
            recursive=False,
            ignore_permission_denied=True,
        )
        try:
            async with contextlib.aclosing(changes):
                async for _ in changes:
                    yield None
        except* (OSError, RuntimeError) as errors:  # watchfiles raises them alone or in a group
            found = ", ".join(map(str, errors.exceptions))
            log.warning("polling_failed", directories=", ".join(map(str, directories)), error=found)
        # Without the library a reading is due as often, and says itself what is wrong with the directory.
        await asyncio.sleep(_LONGEST_MS / 1000)
        yield None
