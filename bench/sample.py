"""Figures of one thing, measured many times."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """The values of a series of measurements; at least one."""

    values: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """The smallest value that so many per cent of all do not exceed, by nearest rank."""
        ordered = sorted(self.values)
        return ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1]

    @property
    def median(self) -> float:
        """The 50th percentile."""
        return self.percentile(50)

    @property
    def p99(self) -> float:
        """The 99th percentile; the highest value where there are fewer than a hundred."""
        return self.percentile(99)

    @property
    def highest(self) -> float:
        """The highest value."""
        return max(self.values)

    def __len__(self) -> int:
        return len(self.values)
