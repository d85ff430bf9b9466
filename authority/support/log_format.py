"""Log lines as text or JSON, and the filter of repeated lines."""

import json
import logging
import time
from typing import Any

_REPEAT_SECONDS = 60

_PLACES = 1000


class RepeatFilter:
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
