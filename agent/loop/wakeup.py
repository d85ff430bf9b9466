"""The event and the timer that the cycle waits for."""

import asyncio


class Superseded(Exception):
    """The wait of a journey is over early: a newer candidate has arrived, or rejected candidates are to be judged."""


class Wakeup:
    """Wakes the cycle when a newer candidate arrives and when a retry is due. For one waiter on one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._due: float | None = None

    def notify(self) -> None:
        """Wake the cycle now: a newer candidate has arrived."""
        self._changed.set()

    def wake_within(self, seconds: float) -> None:
        """Wake the cycle after ``seconds`` at the latest; an earlier time that is set already stays."""
        due = asyncio.get_running_loop().time() + seconds
        self._due = due if self._due is None else min(due, self._due)

    async def wait(self) -> bool:
        """Wait for a notification or the due time, and clear both. True: there was a notification."""
        await self._notified_by(self._due)
        notified = self._changed.is_set()
        self._changed.clear()
        self._due = None
        return notified

    async def pause(self, seconds: float) -> None:
        """Wait for ``seconds``; raises Superseded as soon as there is a notification."""
        if await self._notified_by(asyncio.get_running_loop().time() + seconds):
            raise Superseded

    async def idle(self, seconds: float) -> None:
        """As ``pause``, but raises Superseded also when the due time comes: nothing is lost by a new journey."""
        until = asyncio.get_running_loop().time() + seconds
        is_due_first = self._due is not None and self._due <= until
        if await self._notified_by(self._due if is_due_first else until) or is_due_first:
            raise Superseded

    async def _notified_by(self, instant: float | None) -> bool:
        """Wait until ``instant`` of the loop's clock (None: without end). True: there is a notification."""
        try:
            async with asyncio.timeout_at(instant):
                await self._changed.wait()
        except TimeoutError:
            pass
        return self._changed.is_set()
