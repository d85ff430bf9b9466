"""Growing pauses between tries, for each thing that may fail on its own."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Pause:
    seconds: float
    ends: float


@dataclass(slots=True)
class Backoff(Generic[K]):
    """Each pause is twice the last, from half a second to ``longest`` seconds, until the thing succeeds.

    Counts by the running event loop's clock, which never jumps.
    """

    longest: float
    _pauses: dict[K, _Pause] = field(default_factory=dict)

    def failed(self, thing: K) -> float:
        """It failed (again); returns how many seconds to leave it alone."""
        last = self._pauses.get(thing)
        seconds = min(self.longest, 2 * last.seconds if last else FIRST_SECONDS)
        self._pauses[thing] = _Pause(seconds, asyncio.get_running_loop().time() + seconds)
        return seconds

    def succeeded(self, thing: K) -> None:
        """It went well; the next pause is a short one again."""
        self._pauses.pop(thing, None)

    def resting(self) -> frozenset[K]:
        """What is to be left alone now."""
        now = asyncio.get_running_loop().time()
        return frozenset(thing for thing, pause in self._pauses.items() if pause.ends > now)

    def left(self) -> float | None:
        """Seconds until the next of them may be tried again; None where none is resting."""
        now = asyncio.get_running_loop().time()
        return min((pause.ends - now for pause in self._pauses.values() if pause.ends > now), default=None)
