"""Log lines: as text and as JSON, and which are left out as repetitions."""

import io
import json
import logging
from typing import Any

import pytest

from authority.support.log_format import JsonLines, RepeatFilter, TextLines, configure

HELD: dict[str, Any] = {"epoch": 7, "closed": "waiting", "waiting": ["nats-0", "nats-1"]}


def record(event: str, level: int = logging.WARNING, at: float = 1_800_000_000.5, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("authority", level, __file__, 1, event, None, None)
    made.created, made.msecs, made.fields = at, at % 1 * 1000, fields
    return made


def test_text_line_has_time_level_event_and_fields() -> None:
    assert TextLines().format(record("gate_held", **HELD)) == (
        "2027-01-15T08:00:00.500Z WARNING gate_held epoch=7 closed=waiting waiting=nats-0,nats-1"
    )
    failure = record("step_failed", target="jetstream", error="not there", retry_in=0.5)
    assert TextLines().format(failure).endswith('target=jetstream error="not there" retry_in=0.500')


def test_json_line_has_time_level_event_and_fields() -> None:
    assert json.loads(JsonLines().format(record("gate_held", **HELD))) == {
        "time": "2027-01-15T08:00:00.500Z",
        "level": "WARNING",
        "event": "gate_held",
        **HELD,
    }


def written(*records: logging.LogRecord) -> list[int]:
    """The numbers of the records that the filter lets through."""
    repeats = RepeatFilter()
    return [number for number, each in enumerate(records) if repeats.filter(each)]


def test_repeated_warning_is_written_once_a_minute() -> None:
    times = (0.0, 1.0, 59.9, 60.0, 119.9, 120.0)
    assert written(*(record("nudge_failed", at=at, error="away", retry_in=at) for at in times)) == [0, 3, 5]


@pytest.mark.parametrize("other", [{"error": "asleep"}, {"error": "away", "server": "b"}])
def test_warning_with_other_fields_is_no_repetition(other: dict[str, Any]) -> None:
    first: dict[str, Any] = {"error": "away", "server": "a"}
    assert written(record("monitor", **first), record("monitor", **other), record("monitor", **first)) == [0, 1]


def test_information_and_exceptions_are_always_written() -> None:
    crash = record("crashed")
    crash.exc_info = (ValueError, ValueError("x"), None)
    assert written(*[record("injected", logging.INFO, pod="a")] * 2, crash, crash) == [0, 1, 2, 3]


def test_filter_remembers_a_bounded_number_of_lines() -> None:
    repeats = RepeatFilter()
    for number in range(2000):
        assert repeats.filter(record("away", address=str(number)))
    assert len(repeats._recent._said_at) <= 1000


@pytest.mark.parametrize("json_lines", [False, True])
def test_configured_log_leaves_out_repetitions_of_every_logger(
    monkeypatch: pytest.MonkeyPatch, json_lines: bool
) -> None:
    root, stream = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])  # pytest's own; ``configure`` sets up a process that has none
    monkeypatch.setattr(root, "level", root.level)
    configure(stream, json_lines=json_lines)
    for name in ("authority", "authority.http", "authority"):
        logging.getLogger(name).warning("away", extra={"fields": {"error": "no route"}})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(json.loads(line)["event"] == "away" if json_lines else "WARNING away" in line for line in lines)
