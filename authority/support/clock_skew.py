"""The clocks of servers, compared with our own: nothing is signed or deleted while they differ by too much.

The API server's and OpenBao's ``Date`` headers say what time it is there. A clock that is off by more than the
tolerance would prepare, activate or retire at the wrong time, and sign what agents do not believe yet or any more.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

_RESOLUTION = 1.0  # of a Date header, in seconds
_QUICK = 1.0  # seconds; the Date of a slower answer may be that much too old


class ReferenceClock(Protocol):
    """A clock that our own is compared with."""

    @property
    def server_time(self) -> float | None:
        """The clock's time now (Unix seconds); None while it is not known."""


class ClockDiffers(Exception):
    """Our clock and another differ by more than the tolerance; the message names the other clock and the offset."""


@dataclass(slots=True)
class ServerClock:
    """The clock of a server, by the ``Date`` headers of its answers. Counts by the event loop's clock in between."""

    _known: tuple[float, float] | None = None

    def note(self, date: str | None, began: float) -> None:
        """Take the ``Date`` of an answer to a request sent at ``began`` (event loop's clock), unless it was slow."""
        now = asyncio.get_running_loop().time()
        if date is None or now - began > _QUICK:
            return
        try:
            self._known = parsedate_to_datetime(date).timestamp(), now
        except ValueError:
            # A malformed Date header, perhaps a proxy's: the next answer may have a better one.
            return

    @property
    def server_time(self) -> float | None:
        """What the server's clock shows now; None before its first answer."""
        if self._known is None:
            return None
        then, at = self._known
        return then + asyncio.get_running_loop().time() - at


def check_clock(references: Mapping[str, ReferenceClock], now: float, tolerance: float) -> None:
    """Compare ``now`` with every clock that is known.

    Raises:
        ClockDiffers: one of them differs by more than ``tolerance`` seconds.
    """
    for name, reference in references.items():
        there = reference.server_time
        if there is not None and abs(now - there) > tolerance + _RESOLUTION:
            raise ClockDiffers(
                f"clock: expected it within {tolerance:g} s of {name}'s, found it {now - there:+.0f} s off; nothing is "
                f"signed or deleted until they agree: set the clocks (NTP)"
            )
