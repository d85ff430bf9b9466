"""Counts numbered messages: which arrived, which are missing, which arrived twice; pure and exact.

Numbers start at 1. What has come is kept as ranges of consecutive numbers, so the memory it takes grows with the number
of holes, not of messages: as long as nothing is lost there is one range.
"""

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(slots=True)
class NumberSet:
    """A set of positive integers as disjoint ranges, in order, that do not touch each other."""

    _first: list[int] = field(default_factory=list)
    _last: list[int] = field(default_factory=list)

    def add(self, number: int) -> bool:
        """Add a number; False if it was there already."""
        at = bisect_right(self._first, number) - 1  # the range that begins at or before it
        if at >= 0 and number <= self._last[at]:
            return False
        joins_left = at >= 0 and self._last[at] == number - 1
        joins_right = at + 1 < len(self._first) and self._first[at + 1] == number + 1
        if joins_left and joins_right:
            self._last[at] = self._last.pop(at + 1)
            self._first.pop(at + 1)
        elif joins_left:
            self._last[at] = number
        elif joins_right:
            self._first[at + 1] = number
        else:
            self._first.insert(at + 1, number)
            self._last.insert(at + 1, number)
        return True

    @property
    def highest(self) -> int:
        """The highest number, 0 if empty."""
        return self._last[-1] if self._last else 0

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First and last number of each range."""
        return list(zip(self._first, self._last, strict=True))

    def __len__(self) -> int:
        return sum(self._last) - sum(self._first) + len(self._first)


@dataclass(slots=True)
class Ledger:
    """The messages of one kind that a subscriber received. Times are nanoseconds of one monotonic clock."""

    duplicated: int = 0
    out_of_order: int = 0
    """Arrivals of a new number below a number that had arrived before."""
    redelivered: int = 0
    """Arrivals that the server marked as delivered before, duplicates or not."""
    longest_gap: int = 0
    recent_gap: int = 0
    """The longest since ``take_recent_gap`` was last called."""
    _seen: NumberSet = field(default_factory=NumberSet)
    _latest: int | None = None

    def arrived(self, number: int, at: int, *, redelivered: bool = False) -> None:
        """Count an arrival; a gap is the time since the previous arrival of any number."""
        if self._latest is not None:
            gap = at - self._latest
            self.longest_gap = max(self.longest_gap, gap)
            self.recent_gap = max(self.recent_gap, gap)
        self._latest = at
        self.redelivered += redelivered
        below = number < self._seen.highest
        if not self._seen.add(number):
            self.duplicated += 1
        elif below:
            self.out_of_order += 1

    @property
    def received(self) -> int:
        """How many different numbers arrived."""
        return len(self._seen)

    @property
    def highest(self) -> int:
        """The highest number that arrived."""
        return self._seen.highest

    def missing(self, published: int | None = None) -> int:
        """How many of the numbers from 1 to ``published`` (by default, the highest that arrived) did not arrive."""
        upto = self.highest if published is None else published
        return upto - sum(min(last, upto) - first + 1 for first, last in self._seen.ranges if first <= upto)

    def take_recent_gap(self) -> int:
        """The longest gap since the last call."""
        gap, self.recent_gap = self.recent_gap, 0
        return gap
