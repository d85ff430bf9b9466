"""The former name of ``tidemark.strict_json``, kept for one release; import from there."""

from tidemark.strict_json import (
    LATEST_INSTANT,
    MAX_INTEGER,
    FieldError,
    Fields,
    check_digest,
    dump_object,
    format_instant,
    parse_instant,
    parse_object,
)

__all__ = [
    "LATEST_INSTANT",
    "MAX_INTEGER",
    "FieldError",
    "Fields",
    "check_digest",
    "dump_object",
    "format_instant",
    "parse_instant",
    "parse_object",
]
