"""Logging at the edge: an event's name with fields, as text, or as JSON lines with ``TIDEMARK_LOG=json``.

A line that says what one said less than a minute ago is left out, so that a fault that stays does not fill the log.
What it says is the event and its fields, without the prose (``detail``, ``error``), which may hold the time or a port
of the moment, and without measurements. Fields never hold keys or tokens.
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
    """How lines look."""

    TEXT = "text"
    JSON = "json"


def event(name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Log that something happened."""
    _logger.log(level, name, extra={"fields": fields})


def warning(name: str, /, **fields: object) -> None:
    """Log something that an operator should look at."""
    event(name, logging.WARNING, **fields)


def error(name: str, /, **fields: object) -> None:
    """Log something that went wrong."""
    event(name, logging.ERROR, **fields)


def configure(style: Style, stream: TextIO) -> None:
    """Send every line, also those of libraries, to one stream in one style."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Text() if style is Style.TEXT else _Json())
    handler.addFilter(_Unrepeated())
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every peer that hangs up without a TLS goodbye
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


class _Unrepeated(logging.Filter):
    """Drops a record that says what one of the last minute said."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        said = _gist(record)
        last = self._said.get(said)
        if last is not None and 0 <= record.created - last < _REPEAT_SECONDS:
            return False
        if len(self._said) >= _MOST_REMEMBERED:
            self._said.clear()
        self._said.pop(said, None)  # so that the oldest stands first
        self._said[said] = record.created
        self._forget(record.created - _REPEAT_SECONDS)
        return True

    def _forget(self, before: float) -> None:
        for said in [said for said, _ in itertools.takewhile(lambda one: one[1] <= before, self._said.items())]:
            del self._said[said]


def _gist(record: logging.LogRecord) -> str:
    """What a record says, without what changes from time to time; of a library's, the text before formatting."""
    fields = getattr(record, "fields", {}).items()
    kept = {name: value for name, value in fields if name not in _PROSE and not isinstance(value, float)}
    return f"{record.name} {record.levelno} {record.msg} {kept}"
