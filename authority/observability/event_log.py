"""The event log: every event as a log line, and the last few for the API."""

import logging
import re
from collections import deque
from dataclasses import fields
from enum import Enum
from typing import Any

from authority.rotation.events import (
    AppendConflict,
    Event,
    GateHeld,
    HigherStatementFound,
    StepFailed,
    WithdrawalRequested,
    WithdrawalStageReached,
)
from authority.rotation.withdrawal import WithdrawalStage
from authority.support.log_format import RecentTexts

KEPT = 50
"""How many events the API shows."""

_NAMED = 20

log = logging.getLogger("authority")

_WARNINGS: frozenset[type[Event]] = frozenset(
    {GateHeld, WithdrawalRequested, WithdrawalStageReached, StepFailed, AppendConflict, HigherStatementFound}
)

_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def event_name(kind: type[Event]) -> str:
    """The name of an event in log and API: ``leaf_written`` for ``LeafWritten``."""
    return _CAPITAL.sub("_", kind.__name__).lower()


def event_fields(event: Event) -> dict[str, Any]:
    """An event as JSON: its name, then its fields."""
    return {"event": event_name(type(event))} | {
        field.name: _plain(getattr(event, field.name)) for field in fields(event)
    }


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if not isinstance(value, tuple):
        return value
    more = len(value) - _NAMED
    return [*value[:_NAMED], *([f"and {more} more"] if more > 0 else [])]  # the last 50 events may name ten thousand


def _level(event: Event) -> int:
    is_over = isinstance(event, WithdrawalStageReached) and event.stage is WithdrawalStage.DONE
    return logging.WARNING if type(event) in _WARNINGS and not is_over else logging.INFO


class EventLog:
    """Logs every event and keeps the last ones for the API, numbered from 1 in the order in which they happened.

    Of a step that fails again and again with the same error, one failure a minute is kept: more would push out all
    else.
    """

    def __init__(self) -> None:
        self._count = 0
        self._last: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._failures = RecentTexts()

    def observe(self, event: Event) -> None:
        """Log the event and keep it."""
        fields = event_fields(event)
        is_repeated = isinstance(event, StepFailed) and self._failures.is_repeated(
            f"{event.step} {event.target} {event.error}", event.at
        )
        if not is_repeated:
            self._count += 1
            self._last.append({"number": self._count} | fields)
        name = fields.pop("event")
        del fields["at"]  # the line has its own time
        log.log(_level(event), name, extra={"fields": fields})

    def last(self) -> list[dict[str, Any]]:
        """The last events, oldest first."""
        return list(self._last)
