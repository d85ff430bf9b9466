"""The clocks that the agent reads: wall clock and seconds since boot."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clocks:
    """Functions that read a clock, so that tests can set the time."""

    now: Callable[[], float]
    """The wall clock, in Unix seconds."""
    boot: Callable[[], float]
    """Seconds since boot (CLOCK_BOOTTIME), which the start times of processes count by."""
