"""Measured figures, and the tables that soak tests and benchmarks report."""

import math
from collections.abc import Sequence
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


Cell = str | int | float | Sample


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Rows under a line that says what they are. A ``Sample`` fills three cells: n, median and p99."""

    caption: str
    columns: Sequence[str]
    """Headings; that of a ``Sample`` is what it is and its unit, such as ``gap, ms``."""
    rows: Sequence[Sequence[Cell]]

    def markdown(self) -> str:
        """The table as GitHub shows it."""
        is_sample = [isinstance(cell, Sample) for cell in self.rows[0]]
        headings: list[str] = []
        for heading, sample in zip(self.columns, is_sample, strict=True):
            what, _, unit = heading.rpartition(", ")
            figures = [f"{what}: n", f"median, {unit}", f"p99, {unit}"]
            headings += figures if sample else [heading]
        lines = [
            headings,
            ["---"] * len(headings),
            *([text for cell in row for text in _texts(cell)] for row in self.rows),
        ]
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _texts(cell: Cell) -> list[str]:
    if isinstance(cell, Sample):
        return [str(len(cell)), *(f"{figure:,.1f}" for figure in (cell.median, cell.p99))]
    return [f"{cell:,}" if isinstance(cell, int) else f"{cell:,.1f}" if isinstance(cell, float) else cell]
