"""Pauses of the agent: how they grow, and how far the jitter spreads them."""

import pytest

from agent.backoff import doubled, jittered


@pytest.mark.parametrize(("times", "expected"), [(0, 0.5), (1, 1.0), (3, 4.0), (4, 7.0), (1000, 7.0)])
def test_pause_doubles_up_to_the_longest(times: int, expected: float) -> None:
    assert doubled(0.5, times, longest=7.0) == expected


def test_pause_without_a_longest_stays_finite() -> None:
    assert doubled(0.5, 1_000_000) == 0.5 * 2**16


def test_jitter_stays_within_its_bounds_and_varies() -> None:
    pauses = {jittered(10.0, 0.8, 1.0) for _ in range(100)}
    assert len(pauses) > 1
    assert 8.0 <= min(pauses) <= max(pauses) <= 10.0
