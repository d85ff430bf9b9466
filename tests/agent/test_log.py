"""Log lines: an event with fields, as text or JSON; nothing twice within a minute."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from agent import log
from agent.log import Style


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    handlers, level, own = logging.root.handlers, logging.root.level, logging.getLogger("tidemark.agent").level
    yield
    logging.root.handlers = handlers
    logging.root.setLevel(level)
    logging.getLogger("tidemark.agent").setLevel(own)


def lines(style: Style) -> list[str]:
    stream = io.StringIO()
    log.configure(style, stream)
    log.event("installed", sequence=7, directory="..7-1", leaf=None, seconds=0.25)
    log.error("failure", detail='expected "x", found a\nb')
    return stream.getvalue().splitlines()


def test_text() -> None:
    installed, failure = lines(Style.TEXT)
    assert installed.split(" ", 1)[1] == "info installed sequence=7 directory=..7-1 seconds=0.2500"
    assert failure.split(" ", 1)[1] == r'error failure detail="expected \"x\", found a\nb"'


def test_json_lines() -> None:
    installed, failure = map(json.loads, lines(Style.JSON))
    assert installed.pop("at").endswith("Z")
    assert installed == {"level": "info", "event": "installed", "sequence": 7, "directory": "..7-1", "seconds": 0.25}
    assert failure["detail"] == 'expected "x", found a\nb'


def test_line_is_not_repeated_within_one_minute() -> None:
    stream = io.StringIO()
    log.configure(Style.TEXT, stream)
    for _ in range(5):
        log.event("waiting", pid=1)
        log.event("waiting", pid=2)
    assert len(stream.getvalue().splitlines()) == 2


def test_lines_that_differ_in_prose_or_measurements_are_repeats() -> None:
    stream = io.StringIO()
    log.configure(Style.TEXT, stream)
    for seconds in range(5):
        log.warning("failure", reason="held", sequence=7, detail=f"the clocks differ by {seconds} s")
        log.warning("failure", reason="held", sequence=8, detail=f"the clocks differ by {seconds} s")
        log.warning("receipt_not_sent", error=f"port {seconds} refused", after=seconds / 10)
        logging.getLogger("aiohttp.server").warning("port %d refused", seconds)
    messages = [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]
    assert messages == [
        'failure reason=held sequence=7 detail="the clocks differ by 0 s"',
        'failure reason=held sequence=8 detail="the clocks differ by 0 s"',
        'receipt_not_sent error="port 0 refused" after=0.0000',
        "port 0 refused",
    ]


def test_library_lines_have_configured_style() -> None:
    stream = io.StringIO()
    log.configure(Style.JSON, stream)
    try:
        int("inside")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling request")
    line = json.loads(stream.getvalue())
    assert line["event"] == "Error handling request"
    assert "ValueError: invalid literal" in line["exception"]


def test_line_is_remembered_for_one_minute() -> None:
    stream = io.StringIO()
    log.configure(Style.TEXT, stream)
    (handler,) = logging.root.handlers
    (limiter,) = (one for one in handler.filters if isinstance(one, logging.Filter))

    def passes(line: str, at: float) -> bool:
        record = logging.makeLogRecord({"msg": line})
        record.created = at
        return bool(limiter.filter(record))

    assert [passes(f"line {number}", number) for number in range(50)] == [True] * 50
    assert not passes("line 49", 100)
    assert passes("line 49", 109)
    assert passes("another", 109)
    assert len(vars(limiter)["_seen"]) == 2, "a record that came before takes no memory"
