"""The alarm: what the cycle waits on."""

import asyncio


class Overtaken(Exception):
    """A newer sighting arrived while a journey only waited."""


class Alarm:
    """Wakes the cycle: for something newer, or for the time to try again."""

    def __init__(self) -> None:
        self._newer = asyncio.Event()
        self._seconds: float | None = None

    def ring(self) -> None:
        """There is something newer."""
        self._newer.set()

    def set(self, seconds: float) -> None:
        """Ring in so many seconds, or earlier if that was asked for already."""
        self._seconds = seconds if self._seconds is None else min(seconds, self._seconds)

    async def wait(self) -> bool:
        """Wait for either; whether it is for something newer."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._newer.wait()
        except TimeoutError:
            pass  # it is time to try again
        newer = self._newer.is_set()
        self._newer.clear()
        self._seconds = None
        return newer

    async def pause(self, seconds: float) -> None:
        """Wait so long; raises Overtaken as soon as there is something newer."""
        try:
            async with asyncio.timeout(seconds):
                await self._newer.wait()
        except TimeoutError:
            return
        raise Overtaken
