"""Events as people and programs read them: log lines, and the last few for the API."""

import logging
import re
from collections import deque
from dataclasses import fields
from enum import Enum
from typing import Any

from authority.rotation.events import AppendConflict, Event, Failed, Held, Surpassed, WithdrawalAsked, Withdrawing
from authority.rotation.withdrawal import WithdrawalStage
from authority.support.log_format import RepeatFilter

KEPT = 50
"""How many events the API shows."""

_NAMED = 20

log = logging.getLogger("authority")

_WARNINGS: frozenset[type[Event]] = frozenset({Held, WithdrawalAsked, Withdrawing, Failed, AppendConflict, Surpassed})

_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def event_fields(event: Event) -> dict[str, Any]:
    """An event as JSON has it: its name (``leaf_written``), then its fields."""
    name = _CAPITAL.sub("_", type(event).__name__).lower()
    return {"event": name} | {field.name: _plain(getattr(event, field.name)) for field in fields(event)}


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if not isinstance(value, tuple):
        return value
    more = len(value) - _NAMED
    return [*value[:_NAMED], *([f"and {more} more"] if more > 0 else [])]  # the last 50 events may name ten thousand


def _level(event: Event) -> int:
    is_over = isinstance(event, Withdrawing) and event.stage is WithdrawalStage.DONE
    return logging.WARNING if type(event) in _WARNINGS and not is_over else logging.INFO


class EventLog:
    """Logs every event and keeps the last ones, numbered from 1 in the order in which they happened.

    A failure that repeats what was told less than a minute ago is left out: one that stays would hide all else.
    """

    def __init__(self) -> None:
        self._count = 0
        self._last: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._repetitions = RepeatFilter()

    def observe(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Failed):
            place = f"{event.step} {event.target}"
            if self._repetitions.is_one(place, event.error, event.at):
                return
        self._count += 1
        told = event_fields(event)
        self._last.append({"number": self._count} | told)
        name = told.pop("event")
        del told["at"]  # the line has its own time
        log.log(_level(event), name, extra={"fields": told})

    def last(self) -> list[dict[str, Any]]:
        """The last events, oldest first."""
        return list(self._last)
