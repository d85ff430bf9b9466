"""Logging: an event's name with fields, as text, or as JSON lines with ``TIDEMARK_LOG=json``.

A line that repeats a line of the last minute is left out, so that a fault that persists does not fill the log. Lines
are compared by event and fields, without prose (``detail``, ``error``), which may hold the time or an ephemeral port,
and without measurements. Fields never hold keys or tokens.
"""

import itertools
import json
import logging
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

_REPEAT_SECONDS = 60.0
_MOST_REMEMBERED = 1000
_PROSE = {"detail", "error"}

_logger = logging.getLogger("tidemark.agent")


class Style(StrEnum):
    """Format of the lines."""

    TEXT = "text"
    JSON = "json"


def event(name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Log an event; ``fields`` without a value are left out."""
    _logger.log(level, name, extra={"fields": fields})


def warning(name: str, /, **fields: object) -> None:
    """Log an event that an operator should know of."""
    event(name, logging.WARNING, **fields)


def error(name: str, /, **fields: object) -> None:
    """Log a failure."""
    event(name, logging.ERROR, **fields)


def configure(style: Style, stream: TextIO) -> None:
    """Send every line, also those of libraries, to ``stream`` in one style."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Text() if style is Style.TEXT else _Json())
    handler.addFilter(_RepeatFilter())
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # else a warning for each peer that omits close_notify
    _logger.setLevel(logging.INFO)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in getattr(record, "fields", {}).items() if value not in (None, "")}
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        words = [f"{key}={_word(value)}" for key, value in _fields(record).items()]
        return " ".join([at, record.levelname.lower(), record.getMessage(), *words])


def _word(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    plain = text.isprintable() and not any(character in ' "=' for character in text)
    return text if plain and text else json.dumps(text)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | _fields(record), default=str)


class _RepeatFilter(logging.Filter):
    """Drops a record that repeats a record of the last minute."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = _dedupe_key(record)
        last = self._seen.get(key)
        if last is not None and 0 <= record.created - last < _REPEAT_SECONDS:
            return False
        if len(self._seen) >= _MOST_REMEMBERED:
            self._seen.clear()
        self._seen.pop(key, None)  # a dict keeps the order of insertion: the oldest must come first
        self._seen[key] = record.created
        self._forget(record.created - _REPEAT_SECONDS)
        return True

    def _forget(self, before: float) -> None:
        for key in [key for key, _ in itertools.takewhile(lambda seen: seen[1] <= before, self._seen.items())]:
            del self._seen[key]


def _dedupe_key(record: logging.LogRecord) -> str:
    """What two equal records have in common; of a library's record the text before formatting."""
    fields = getattr(record, "fields", {}).items()
    kept = {name: value for name, value in fields if name not in _PROSE and not isinstance(value, float)}
    return f"{record.name} {record.levelno} {record.msg} {kept}"
