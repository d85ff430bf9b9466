"""Retries with back-off: the pauses between tries, their jitter, and the loop that retries one request."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

T = TypeVar("T")

FIRST_SECONDS = 0.5

REQUEST_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before each further try of a request to a server; the caller's own retries come after the last try."""


class TransientError(Exception):
    """A try failed for a reason that may pass. ``retry`` raises ``error`` once no try is left."""

    def __init__(self, error: Exception, retry_after: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        """Seconds that the server asks to be left alone: the next pause is no shorter."""


async def retry(call: Callable[[], Awaitable[T]], pauses: Sequence[float]) -> T:
    """Call until the call returns, with jittered ``pauses`` (seconds) in between.

    Only TransientError is retried; ``call`` may be repeated. Raises the error of the last TransientError.
    """
    for pause in pauses:
        try:
            return await call()
        except TransientError as fault:
            least = fault.retry_after
        await asyncio.sleep(max(jittered(pause, 0.5, 1.0), least))
    try:
        return await call()
    except TransientError as fault:
        raise fault.error from None


def jittered(seconds: float, least: float, most: float) -> float:
    """``seconds`` times a random factor from ``least`` to ``most``, so that several clients do not act as one."""
    return seconds * random.uniform(least, most)  # noqa: S311 - spreads load, keeps no secret


@dataclass(frozen=True, slots=True)
class _Pause:
    seconds: float
    ends: float


@dataclass(slots=True)
class Backoff(Generic[K]):
    """Pauses for each key that fails: half a second, then twice the last pause, until the key succeeds.

    Counts by the running event loop's clock, which never jumps.
    """

    longest: float
    """Seconds that a pause lasts at most."""
    _pauses: dict[K, _Pause] = field(default_factory=dict)

    def failed(self, key: K) -> float:
        """Begin the key's next pause; returns its length in seconds."""
        last = self._pauses.get(key)
        seconds = min(self.longest, 2 * last.seconds if last else FIRST_SECONDS)
        self._pauses[key] = _Pause(seconds, asyncio.get_running_loop().time() + seconds)
        return seconds

    def succeeded(self, key: K) -> None:
        """End the key's pause; its next one is the shortest again."""
        self._pauses.pop(key, None)

    def backing_off(self) -> frozenset[K]:
        """The keys whose pauses have not ended."""
        now = asyncio.get_running_loop().time()
        return frozenset(key for key, pause in self._pauses.items() if pause.ends > now)

    def seconds_left(self) -> float | None:
        """Seconds until the first pause ends; None where no key is backing off."""
        now = asyncio.get_running_loop().time()
        return min((pause.ends - now for pause in self._pauses.values() if pause.ends > now), default=None)
