"""When a set that was refused is tried again."""

from hypothesis import given
from hypothesis import strategies as st

from agent.loop.retry import Key, Retry
from agent.loop.timing import RetryPolicy

ONE: Key = ("one", None)
OTHER: Key = ("other", "leaf")
PATIENCE = RetryPolicy(refused_pause=10.0, longest_refused_pause=300.0)


def test_pause_doubles_with_each_failure_up_to_limit() -> None:
    retry = Retry(PATIENCE)
    for failures in range(12):
        usual = min(10.0 * 2**failures, 300.0)
        assert 0.9 * usual <= retry.record_failure(0.0, ONE) <= 1.1 * usual
        retry.start(ONE)


def test_other_set_resets_failures() -> None:
    retry = Retry(PATIENCE)
    for _ in range(5):
        retry.record_failure(0.0, ONE)
    retry.start(OTHER)
    assert retry.remaining(OTHER, 0.0) == 0.0
    assert retry.record_failure(0.0, OTHER) <= 11.0


def test_proof_resets_failures() -> None:
    retry = Retry(PATIENCE)
    retry.record_failure(0.0, ONE)
    retry.record_success()
    assert retry.remaining(ONE, 0.0) == 0.0
    assert retry.record_failure(0.0, ONE) <= 11.0


def test_write_failure_is_counted_and_refuses_no_set() -> None:
    retry = Retry(PATIENCE)
    assert retry.record_failure(0.0) <= 11.0
    assert retry.record_failure(0.0) >= 18.0
    assert retry.remaining(ONE, 0.0) == 0.0


@given(st.integers(1, 40), st.floats(0.0, 1000.0))
def test_refused_set_stays_in_backoff_until_change(failures: int, later: float) -> None:
    retry = Retry(PATIENCE)
    pause = 0.0
    for _ in range(failures):
        pause = retry.record_failure(500.0, ONE)
    assert retry.remaining(ONE, 500.0 + later) == max(0.0, 500.0 + pause - (500.0 + later))
    assert retry.remaining(OTHER, 500.0 + later) == 0.0
    retry.clear_pause()
    assert retry.remaining(ONE, 500.0) == 0.0
    assert retry.record_failure(500.0, ONE) >= min(0.9 * 10.0 * 2**failures, 0.9 * 300.0), "and yet the pauses grow"
