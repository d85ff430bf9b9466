"""The clocks that the agent reads: wall clock and seconds since boot."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clocks:
    """``now``: the wall clock, in Unix seconds; ``boot``: seconds since boot, which process start times count by."""

    now: Callable[[], float]
    boot: Callable[[], float]
