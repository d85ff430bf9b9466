"""The composition root: each pod's share of the splay."""

from hypothesis import given
from hypothesis import strategies as st

from agent.app import splay_of


@given(st.text(min_size=1, max_size=60), st.floats(0, 3600))
def test_splay_of_pod_is_constant_and_in_range(pod: str, splay: float) -> None:
    assert splay_of(pod, splay) == splay_of(pod, splay)
    assert 0 <= splay_of(pod, splay) <= splay


def test_splay_is_spread_evenly_over_fleet() -> None:
    shares = [splay_of(f"web-{number}", 10.0) for number in range(1000)]
    quarters = [sum(1 for share in shares if low <= share < low + 2.5) for low in (0, 2.5, 5, 7.5)]
    assert all(200 < quarter < 300 for quarter in quarters)
