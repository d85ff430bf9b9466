"""Pauses between tries, and the loop that retries a request; in virtual time."""

import asyncio

import pytest

from authority.support.backoff import Backoff, TransientError, retry
from tests.harness.virtual_time import in_virtual_time


@in_virtual_time
async def test_pauses_double_to_their_longest_and_end_with_success() -> None:
    backoff = Backoff[str](3)
    assert backoff.seconds_left() is None
    for expected in (0.5, 1.0, 2.0, 3.0, 3.0):
        assert backoff.failed("a") == expected
        assert backoff.backing_off() == {"a"}
        assert backoff.seconds_left() == pytest.approx(expected)
        await asyncio.sleep(expected)
        assert backoff.backing_off() == frozenset()
        assert backoff.seconds_left() is None
    assert backoff.failed("b") == 0.5
    assert backoff.failed("a") == 3.0
    assert backoff.seconds_left() == pytest.approx(0.5)
    backoff.succeeded("a")
    assert backoff.backing_off() == {"b"}
    assert backoff.failed("a") == 0.5


class Server:
    """Fails as often as ``faults`` says, then answers; remembers when it was asked."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.asked_at: list[float] = []

    async def ask(self) -> str:
        self.asked_at.append(asyncio.get_running_loop().time())
        if self.faults:
            raise self.faults.pop(0)
        return "answer"

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.asked_at, self.asked_at[1:], strict=False)]


@in_virtual_time
async def test_transient_faults_are_retried_after_jittered_pauses() -> None:
    server = Server(*[TransientError(ValueError("away"))] * 2)
    assert await retry(server.ask, (1.0, 10.0, 100.0)) == "answer"
    first, second = server.pauses
    assert 0.5 <= first <= 1.0
    assert 5.0 <= second <= 10.0


@in_virtual_time
async def test_next_try_waits_as_long_as_the_server_asks() -> None:
    server = Server(TransientError(ValueError("busy"), retry_after=7.0))
    assert await retry(server.ask, (1.0,)) == "answer"
    assert server.pauses == [pytest.approx(7.0)]


@in_virtual_time
async def test_last_transient_fault_is_raised_as_its_own_error() -> None:
    server = Server(TransientError(ValueError("first")), TransientError(ValueError("last")))
    with pytest.raises(ValueError, match="last"):
        await retry(server.ask, (1.0,))
    assert len(server.asked_at) == 2


@in_virtual_time
async def test_other_errors_are_raised_at_once() -> None:
    server = Server(ValueError("refused"))
    with pytest.raises(ValueError, match="refused"):
        await retry(server.ask, (1.0, 1.0))
    assert len(server.asked_at) == 1
