"""Events as people and programs read them: log lines, and the last few for the API."""

import json
import logging
import re
import time
from collections import deque
from dataclasses import fields
from enum import Enum
from typing import Any

from authority.rotation.events import Conflict, Event, Failed, Held, Surpassed, WithdrawalAsked, Withdrawing
from authority.rotation.withdrawal import Stage

KEPT = 50
"""How many events the API shows."""

_REPEAT_SECONDS = 60
_PLACES = 1000
_NAMED = 20

log = logging.getLogger("authority")

_WARNINGS: frozenset[type[Event]] = frozenset({Held, WithdrawalAsked, Withdrawing, Failed, Conflict, Surpassed})
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
    is_over = isinstance(event, Withdrawing) and event.stage is Stage.DONE
    return logging.WARNING if type(event) in _WARNINGS and not is_over else logging.INFO


class Repetitions:
    """Knows what was said less than a minute ago, by the place that it is about."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float]] = {}

    def is_one(self, place: str, text: str, at: float) -> bool:
        """Whether the last that was let pass for this place was the same, and less than a minute before ``at``."""
        last, when = self._last.get(place, ("", -_REPEAT_SECONDS))
        if last == text and 0 <= at - when < _REPEAT_SECONDS:
            return True
        if len(self._last) >= _PLACES:
            self._last.clear()
        self._last[place] = (text, at)
        return False


class Chronicle:
    """Logs every event and keeps the last ones, numbered from 1 in the order in which they happened.

    A failure that repeats what was told less than a minute ago is left out: one that stays would hide all else.
    """

    def __init__(self) -> None:
        self._count = 0
        self._last: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._repetitions = Repetitions()

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


class TextLines(logging.Formatter):
    """``2026-01-02T03:04:05Z INFO prepared epoch=7 ca=3f1a…``, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it the traceback if there is one."""
        told = " ".join(f"{name}={_word(value)}" for name, value in _fields(record).items())
        line = f"{_instant(record)} {record.levelname} {record.getMessage()} {told}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """The event's name, its fields, and the traceback if there is one."""
        line = {"time": _instant(record), "level": record.levelname, "event": record.getMessage()} | _fields(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    told: dict[str, Any] = getattr(record, "fields", {})
    return told


def _instant(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return json.dumps(text) if " " in text or not text else text
