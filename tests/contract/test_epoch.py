"""The epoch clock against its definition, and every bound (docs/architecture.md, "Clock")."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.epoch import PRESETS, ClockError, EpochClock, Timing, default_leaf_seconds


@st.composite
def clocks(draw: st.DrawFn, longest: int = 10**6) -> EpochClock:
    d = draw(st.integers(2, longest))
    v = draw(st.integers(3 * d, 24 * d))
    return EpochClock(epoch_seconds=d, validity_seconds=v, prepare_seconds=draw(st.integers(1, d - 1)))


INSTANTS = st.integers(0, 10**12)


@given(clocks(), INSTANTS)
def test_an_epoch_begins_at_its_start_and_not_a_second_earlier(clock: EpochClock, now: int) -> None:
    epoch = clock.epoch_at(now)
    assert clock.start(epoch) <= now < clock.start(epoch + 1)
    assert clock.epoch_at(clock.start(epoch)) == epoch
    assert clock.epoch_at(clock.start(epoch) - 1) == epoch - 1


@given(clocks(), INSTANTS)
def test_newest_due_is_the_newest_epoch_whose_prepare_has_come(clock: EpochClock, now: int) -> None:
    newest = clock.newest_due(now)
    assert clock.prepare_at(newest) <= now < clock.prepare_at(newest + 1)
    assert newest - clock.epoch_at(now) in (0, 1)  # P < D: at most the next one


@given(clocks(), INSTANTS)
def test_valid_epochs_are_exactly_those_by_definition(clock: EpochClock, now: int) -> None:
    here = clock.epoch_at(now)
    by_definition = [
        n
        for n in range(here - 30, here + 5)
        if clock.prepare_at(n) <= now < n * clock.epoch_seconds + clock.validity_seconds
    ]
    assert list(clock.valid_epochs(now)) == by_definition


@given(clocks(), st.integers(0, 10**9))
def test_a_ca_is_valid_from_its_prepare_until_the_second_before_its_expiry(clock: EpochClock, epoch: int) -> None:
    assert epoch not in clock.valid_epochs(clock.prepare_at(epoch) - 1)
    assert epoch in clock.valid_epochs(clock.prepare_at(epoch))
    assert epoch in clock.valid_epochs(clock.expiry(epoch) - 1)
    assert epoch not in clock.valid_epochs(clock.expiry(epoch))


@given(clocks(longest=10**40), st.integers(0, 10**60))
def test_arithmetic_stays_exact_beyond_floats(clock: EpochClock, now: int) -> None:
    epoch = clock.epoch_at(now)
    assert clock.start(epoch) + now % clock.epoch_seconds == now
    assert clock.expiry(epoch) - clock.prepare_at(epoch) == clock.validity_seconds + clock.prepare_seconds
    assert clock.newest_due(now) in clock.valid_epochs(now)


def test_the_instants_of_one_epoch() -> None:
    clock = EpochClock(epoch_seconds=1200, validity_seconds=4800, prepare_seconds=300)
    assert (clock.start(1_480_000), clock.prepare_at(1_480_000), clock.expiry(1_480_000)) == (
        1_776_000_000,
        1_775_999_700,
        1_776_004_800,
    )
    assert clock.newest_due(1_775_999_699) == 1_479_999
    assert clock.newest_due(1_775_999_700) == 1_480_000
    assert clock.valid_epochs(1_776_000_000) == range(1_479_997, 1_480_001)


def test_presets_are_the_documented_ones() -> None:
    figures = {
        name: (
            preset.clock.epoch_seconds,
            preset.clock.validity_seconds,
            preset.clock.prepare_seconds,
            preset.tolerance_seconds,
            preset.leaf_seconds,
        )
        for name, preset in PRESETS.items()
    }
    assert figures == {
        "playground": (20, 80, 8, 5, 40),
        "testing": (1200, 4800, 300, 600, 2400),
        "production": (21600, 86400, 1800, 600, 43200),
    }


@pytest.mark.parametrize(("d", "v", "leaf"), [(100, 300, 100), (100, 350, 150), (100, 400, 200), (100, 2400, 200)])
def test_default_leaf_lives_two_epochs_or_what_validity_allows(d: int, v: int, leaf: int) -> None:
    assert default_leaf_seconds(EpochClock(epoch_seconds=d, validity_seconds=v, prepare_seconds=10)) == leaf


def clock(d: int = 1000, v: int = 4000, p: int = 300) -> EpochClock:
    return EpochClock(epoch_seconds=d, validity_seconds=v, prepare_seconds=p)


def timing(**changes: int) -> Timing:
    durations = {"tolerance_seconds": 100, "leaf_seconds": 2000, "delivery_seconds": 90}
    return Timing(clock(), **(durations | changes))


INSIDE = [
    lambda: clock(v=3000),
    lambda: clock(v=24000),
    lambda: clock(p=1),
    lambda: clock(p=999),
    lambda: timing(leaf_seconds=2000),
    lambda: timing(tolerance_seconds=500),
    lambda: timing(tolerance_seconds=0, delivery_seconds=0),
    lambda: timing(tolerance_seconds=109, delivery_seconds=90, leaf_seconds=399),
    lambda: timing(splay_seconds=204),
]


@pytest.mark.parametrize("make", INSIDE)
def test_the_last_value_inside_each_bound_passes(make: Callable[[], object]) -> None:
    make()


OUTSIDE: dict[str, tuple[Callable[[], object], list[str]]] = {
    "D is positive": (lambda: clock(d=0, v=0, p=0), ["epoch_seconds = 0"]),
    "D is not negative": (lambda: clock(d=-5, v=-15, p=1), ["epoch_seconds = -5"]),
    "3 D <= V": (lambda: clock(v=2999), ["validity_seconds = 2999", "epoch_seconds = 1000", "3000 to 24000"]),
    "V <= 24 D": (lambda: clock(v=24001), ["validity_seconds = 24001", "epoch_seconds = 1000", "3000 to 24000"]),
    "0 < P": (lambda: clock(p=0), ["prepare_seconds = 0", "epoch_seconds = 1000"]),
    "P < D": (lambda: clock(p=1000), ["prepare_seconds = 1000", "epoch_seconds = 1000"]),
    "0 < L": (lambda: timing(leaf_seconds=0), ["leaf_seconds = 0", "validity_seconds = 4000", "1 to 2000"]),
    "L <= V - 2 D": (
        lambda: timing(leaf_seconds=2001),
        ["leaf_seconds = 2001", "validity_seconds = 4000", "epoch_seconds = 1000", "1 to 2000"],
    ),
    "tolerance <= D/2": (lambda: timing(tolerance_seconds=501), ["tolerance_seconds = 501", "epoch_seconds = 1000"]),
    "tolerance <= D/2, odd D": (
        lambda: Timing(clock(d=1001), tolerance_seconds=501, leaf_seconds=1998, delivery_seconds=90),
        ["tolerance_seconds = 501", "epoch_seconds = 1001", "500"],
    ),
    "tolerance + delivery < L/2": (
        lambda: timing(tolerance_seconds=110, leaf_seconds=400),
        ["tolerance_seconds = 110", "delivery_seconds = 90", "leaf_seconds = 400"],
    ),
    "delivery + splay + reload < P": (
        lambda: timing(splay_seconds=205),
        ["prepare_seconds = 300", "delivery_seconds = 90", "splay_seconds = 205", "5 s for the reload", "300"],
    ),
    "delivery alone < P": (
        lambda: timing(delivery_seconds=295),
        ["prepare_seconds = 300", "delivery_seconds = 295"],
    ),
    "tolerance >= 0": (lambda: timing(tolerance_seconds=-1), ["tolerance_seconds = -1"]),
    "delivery >= 0": (lambda: timing(delivery_seconds=-1), ["delivery_seconds = -1"]),
    "splay >= 0": (lambda: timing(splay_seconds=-1), ["splay_seconds = -1"]),
}


@pytest.mark.parametrize("bound", OUTSIDE)
def test_the_first_value_outside_each_bound_is_refused_with_both_values(bound: str) -> None:
    make, shown = OUTSIDE[bound]
    with pytest.raises(ClockError) as refused:
        make()
    assert [part for part in shown if part not in str(refused.value)] == []
