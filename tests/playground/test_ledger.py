"""The counting of numbered messages, against the simplest way to count that there is."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from playground.ledger import Ledger, NumberSet

NUMBERS = st.lists(st.integers(1, 40), max_size=80)


@given(NUMBERS)
def test_number_set_agrees_with_a_set(numbers: list[int]) -> None:
    ours, plain = NumberSet(), set[int]()
    for number in numbers:
        assert ours.add(number) == (number not in plain)
        plain.add(number)
        assert len(ours) == len(plain)
        assert ours.highest == max(plain)
        assert {n for first, last in ours.ranges for n in range(first, last + 1)} == plain
        # disjoint, in order, and not touching: so there are as few as can be
        ends = [end for pair in ours.ranges for end in pair]
        assert ends == sorted(ends)
        assert all(last + 1 < first for (_, last), (first, _) in pairwise(ours.ranges))


@given(NUMBERS, st.integers(0, 50))
def test_ledger_counts_what_the_simplest_count_finds(numbers: list[int], published: int) -> None:
    ledger = Ledger()
    for at, number in enumerate(numbers):
        ledger.arrived(number, at)
    fresh = [number for at, number in enumerate(numbers) if number not in numbers[:at]]
    assert ledger.received == len(fresh)
    assert ledger.duplicated == len(numbers) - len(fresh)
    assert ledger.highest == max(numbers, default=0)
    assert ledger.missing() == len(set(range(1, ledger.highest + 1)) - set(numbers))
    assert ledger.missing(published) == len(set(range(1, published + 1)) - set(numbers))
    assert ledger.out_of_order == sum(number < max(fresh[:at], default=0) for at, number in enumerate(fresh))


@given(st.permutations(range(1, 30)))
def test_complete_numbers_in_any_order_miss_nothing(numbers: list[int]) -> None:
    ledger = Ledger()
    for at, number in enumerate(numbers):
        ledger.arrived(number, at)
    assert (ledger.missing(29), ledger.duplicated, len(ledger._seen.ranges)) == (0, 0, 1)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50))
def test_longest_gap_is_between_two_arrivals(times: list[int]) -> None:
    times.sort()
    ledger = Ledger()
    for number, at in enumerate(times, start=1):
        ledger.arrived(number, at)
    longest = max((after - before for before, after in pairwise(times)), default=0)
    assert ledger.longest_gap == longest
    assert ledger.take_recent_gap() == longest
    assert ledger.take_recent_gap() == 0
    ledger.arrived(len(times) + 1, times[-1] + 5)
    assert ledger.recent_gap == 5
    assert ledger.longest_gap == max(longest, 5)


def test_redelivery_is_counted_with_and_without_a_duplicate() -> None:
    ledger = Ledger()
    ledger.arrived(1, 0)
    ledger.arrived(2, 0, redelivered=True)
    ledger.arrived(1, 0, redelivered=True)
    assert (ledger.redelivered, ledger.duplicated, ledger.received) == (2, 1, 2)


def test_ledger_of_consecutive_numbers_holds_one_range() -> None:
    ledger = Ledger()
    for number in range(1, 100_001):
        ledger.arrived(number, number)
    assert len(ledger._seen.ranges) == 1
