"""Log lines for failures that a part reports through a callback, and that it tries again by itself."""

import logging

log = logging.getLogger("authority")


def log_failure(event: str, error: object, /, *, level: int = logging.WARNING, **fields: object) -> None:
    """Log ``event`` with the error and ``fields``. ``RepeatFilter`` drops what repeats within a minute."""
    sentence = str(error) or type(error).__name__  # some errors of asyncio have no text
    log.log(level, event, extra={"fields": {**fields, "error": sentence}})
