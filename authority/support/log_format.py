"""Log lines as text or JSON, and the filter of repeated lines."""

import json
import logging
import time
from typing import Any, TextIO

_REPEAT_SECONDS = 60
_REMEMBERED = 1000


def configure(stream: TextIO, *, json_lines: bool) -> None:
    """Write every log line, also those of libraries, to one stream in one format."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if json_lines else TextLines())
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request to the API server otherwise


class RecentTexts:
    """Remembers what was said within the last minute."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}

    def is_repeated(self, text: str, at: float) -> bool:
        """Whether ``text`` was said less than a minute before ``at`` (seconds); if not, ``text`` counts as said now."""
        if 0 <= at - self._said_at.get(text, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return True
        if len(self._said_at) >= _REMEMBERED:
            self._said_at.clear()
        self._said_at[text] = at
        return False


class RepeatFilter(logging.Filter):
    """Drops a warning or an error that repeats one of the last minute: a fault that stays must not fill the log.

    A repetition has the same event and the same fields; measurements (numbers with fractions) may differ.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recent = RecentTexts()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno < logging.WARNING or record.exc_info:
            return True
        fields = {name: value for name, value in _fields(record).items() if not isinstance(value, float)}
        return not self._recent.is_repeated(f"{record.name} {record.getMessage()} {fields}", record.created)


class TextLines(logging.Formatter):
    """``2026-01-02T03:04:05Z INFO prepared epoch=7 ca=3f1a…``, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it the traceback if there is one."""
        fields = " ".join(f"{name}={_word(value)}" for name, value in _fields(record).items())
        line = f"{_instant(record)} {record.levelname} {record.getMessage()} {fields}".rstrip()
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
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _instant(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return json.dumps(text) if " " in text or not text else text
