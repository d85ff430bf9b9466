"""The alarm: what the cycle waits on."""

import asyncio


class Superseded(Exception):
    """A newer sighting arrived while a journey only waited, or it is time to judge the last one again."""


class Wakeup:
    """Wakes the cycle: for something newer, or for the time to try again."""

    def __init__(self) -> None:
        self._newer = asyncio.Event()
        self._due: float | None = None

    def ring(self) -> None:
        """There is something newer."""
        self._newer.set()

    def set(self, seconds: float) -> None:
        """Ring in so many seconds, or earlier if that was asked for already."""
        due = asyncio.get_running_loop().time() + seconds
        self._due = due if self._due is None else min(due, self._due)

    async def wait(self) -> bool:
        """Wait for either; whether it is for something newer."""
        await self._rings_by(self._due)
        newer = self._newer.is_set()
        self._newer.clear()
        self._due = None
        return newer

    async def pause(self, seconds: float) -> None:
        """Wait so long; raises Overtaken as soon as there is something newer."""
        if await self._rings_by(asyncio.get_running_loop().time() + seconds):
            raise Superseded

    async def idle(self, seconds: float) -> None:
        """Wait so long where nothing is lost by beginning again; raises Overtaken also when it is time to try again."""
        until = asyncio.get_running_loop().time() + seconds
        rings = self._due is not None and self._due <= until
        if await self._rings_by(self._due if rings else until) or rings:
            raise Superseded

    async def _rings_by(self, instant: float | None) -> bool:
        """Wait until then, or until there is something newer; whether there is."""
        try:
            async with asyncio.timeout_at(instant):
                await self._newer.wait()
        except TimeoutError:
            pass
        return self._newer.is_set()
