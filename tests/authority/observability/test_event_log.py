"""The event log: what is kept for the API, and what becomes a log line."""

import json
import logging
from dataclasses import replace

import pytest

from authority.observability.event_log import KEPT, EventLog, event_fields
from authority.rotation.actions import Step
from authority.rotation.events import GateHeld, Retired, StepFailed, WithdrawalStageReached
from authority.rotation.gate import ClosedReason
from authority.rotation.withdrawal import WithdrawalStage

NOW = 1_800_000_000

HELD = GateHeld(NOW, 7, "ab" * 32, NOW - 5, NOW + 5, ClosedReason.WAITING, ("nats-0", "nats-1"))


def failed(error: str, at: int = NOW) -> StepFailed:
    return StepFailed(at, Step.PUBLISH, "jetstream", error, 0.5)


def test_events_are_numbered_and_the_last_ones_kept() -> None:
    event_log = EventLog()
    for at in range(KEPT + 5):
        event_log.observe(Retired(at, ("epoch-1-1",), orphans=False))
    last = event_log.last()
    assert [event["number"] for event in last] == list(range(6, KEPT + 6))
    assert last[0] == {"number": 6, "event": "retired", "at": 5, "intents": ["epoch-1-1"], "orphans": False}
    json.dumps(last)


def test_failure_that_stays_is_kept_once_a_minute() -> None:
    event_log = EventLog()
    for failure in (failed("away"), failed("away", NOW + 59), failed("asleep", NOW + 59), failed("away", NOW + 60)):
        event_log.observe(failure)
    event_log.observe(failed("away", NOW + 119))
    event_log.observe(failed("away", NOW + 120))
    assert [(event["error"], event["at"] - NOW) for event in event_log.last()] == [
        ("away", 0),
        ("asleep", 59),
        ("away", 60),
        ("away", 120),
    ]


def test_withdrawal_is_a_warning_until_it_is_done(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "authority"):
        for stage in (WithdrawalStage.REISSUING, WithdrawalStage.DONE):
            EventLog().observe(WithdrawalStageReached(NOW, 7, "ab" * 32, stage, "cd" * 32, ("nats-0",), NOW + 5))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_line_has_the_fields_of_the_event_without_its_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "authority"):
        EventLog().observe(HELD)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "gate_held")
    assert record.__dict__["fields"] == {
        "epoch": 7,
        "ca": "ab" * 32,
        "since": NOW - 5,
        "until": NOW + 5,
        "closed": "waiting",
        "waiting": ["nats-0", "nats-1"],
    }
    assert event_fields(HELD)["event"] == "gate_held"


def test_long_list_of_agents_is_shortened() -> None:
    names = tuple(f"agent-{number}" for number in range(10_000))
    assert event_fields(replace(HELD, waiting=names))["waiting"] == [*names[:20], "and 9980 more"]
    assert event_fields(replace(HELD, waiting=names[:20]))["waiting"] == list(names[:20])
