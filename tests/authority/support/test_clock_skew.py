"""The clock of a server, by its answers, compared with ours."""

import asyncio

import pytest

from authority.support.clock_skew import ClockDiffers, ServerClock, check_clock

DATE = "Fri, 15 Jan 2027 08:00:00 GMT"


async def test_slow_answer_leaves_the_server_clock_unknown() -> None:
    now, clock = asyncio.get_running_loop().time(), ServerClock()
    clock.note(DATE, now - 5)
    assert clock.server_time is None
    clock.note(DATE, now)
    assert clock.server_time == pytest.approx(1_800_000_000, abs=1)


async def test_malformed_date_leaves_the_last_one_known() -> None:
    now, clock = asyncio.get_running_loop().time(), ServerClock()
    clock.note(DATE, now)
    clock.note("yesterday", now)
    clock.note(None, now)
    assert clock.server_time == pytest.approx(1_800_000_000, abs=1)


@pytest.mark.parametrize(("ours", "differs"), [(6.0, False), (-6.0, False), (7.5, True), (-7.5, True)])
async def test_clock_differs_beyond_tolerance_and_resolution(ours: float, differs: bool) -> None:
    clock = ServerClock()
    clock.note(DATE, asyncio.get_running_loop().time())
    now = (clock.server_time or 0.0) + ours
    if differs:
        with pytest.raises(ClockDiffers, match=r"clock: expected it within 6 s of OpenBao's, found it [+-][78] s off"):
            check_clock({"OpenBao": clock}, now, 6.0)
    else:
        check_clock({"OpenBao": clock}, now, 6.0)
    check_clock({"OpenBao": ServerClock()}, now, 6.0)
