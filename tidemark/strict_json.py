"""Strict JSON objects, as statements, receipts and journal records are read (RFC 8259, RFC 7493).

A field given twice, a field of another type or a number beyond 2^53 - 1, up to which JSON programs agree, is an error
that names the field. Unknown fields are ignored.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Never, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

MAX_INTEGER = 2**53 - 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
LATEST_INSTANT = 253_402_300_799
"""9999-12-31T23:59:59Z in Unix seconds: the last instant that RFC 3339 and X.509 can write."""


class FieldError(ValueError):
    """A field is missing, given twice or of another form; the message names the field."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise FieldError(f"field {name[:80]!r}: expected once, found twice")
        fields[name] = value
    return fields


def _no_constant(text: str) -> Never:
    raise FieldError(f"expected JSON, found {text}, which JSON does not have")


def parse_object(text: str | bytes) -> "Fields":
    """Read one JSON object; bytes are UTF-8 (json.loads by itself accepts UTF-16, UTF-32 and lone surrogates too).

    Raises:
        FieldError: not JSON, not an object, nested too deeply, or a field given twice.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode()
        value = json.loads(decoded, object_pairs_hook=_object, parse_constant=_no_constant)
    except FieldError:
        raise
    except (ValueError, RecursionError) as error:
        raise FieldError(f"expected one JSON object, found text that is none ({error})") from None
    return Fields(value, "")


def dump_object(fields: dict[str, Any]) -> str:
    """Write a JSON object on one line, in ASCII, without spaces, fields in the order given.

    Raises:
        ValueError: a float that is infinite or no number.
    """
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class Fields:
    """The fields of one JSON object, read by name and type; ``where`` names the object in errors.

    Raises:
        FieldError: by every reading method, for a field that is missing or of another form.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            name = f"field {where!r}" if where else "document"
            raise FieldError(f"{name}: expected a JSON object, found {type(value).__name__}")
        self._values: dict[str, object] = value
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def _name(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def _of_type(self, name: str, kind: type[T]) -> T:
        if name not in self._values:
            raise FieldError(f"field {self._name(name)!r}: expected a {kind.__name__}, found no such field")
        value = self._values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FieldError(f"field {self._name(name)!r}: expected a {kind.__name__}, found {type(value).__name__}")
        return value

    def string(self, name: str, longest: int = 4096) -> str:
        """A string of at most ``longest`` characters."""
        value = _writable(self._of_type(name, str), self._name(name))
        if len(value) > longest:
            raise FieldError(f"field {self._name(name)!r}: expected at most {longest} characters, found {len(value)}")
        return value

    def integer(self, name: str, least: int = 0) -> int:
        """An integer from ``least`` to 2^53 - 1."""
        value = self._of_type(name, int)
        if not least <= value <= MAX_INTEGER:
            raise FieldError(f"field {self._name(name)!r}: expected {least} to {MAX_INTEGER}, found {str(value)[:40]}")
        return value

    def number(self, name: str) -> float:
        """A number from 0 to 2^53 - 1, as a float."""
        if not isinstance(self._values.get(name), float):
            return float(self.integer(name))
        value = self._of_type(name, float)
        if not 0 <= value <= MAX_INTEGER:  # 1e999 reads as infinity
            raise FieldError(f"field {self._name(name)!r}: expected 0 to {MAX_INTEGER}, found {value}")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        return self._of_type(name, bool)

    def instant(self, name: str) -> int:
        """An RFC 3339 instant in UTC with whole seconds (``2026-01-02T03:04:05Z``), as Unix seconds."""
        return parse_instant(self.string(name), self._name(name))

    def digest(self, name: str) -> str:
        """A SHA-256 digest as 64 lower-case hex digits."""
        return check_digest(self.string(name), self._name(name))

    def member(self, name: str, kind: type[E]) -> E:
        """One of the values of an enumeration."""
        value = self.string(name)
        if value not in [member.value for member in kind]:
            expected = ", ".join(member.value for member in kind)
            raise FieldError(f"field {self._name(name)!r}: expected one of {expected}, found {value[:80]!r}")
        return kind(value)

    def object(self, name: str) -> "Fields":
        """An object inside this one."""
        return Fields(self._of_type(name, dict), self._name(name))

    def objects(self, name: str) -> "list[Fields]":
        """A list of objects."""
        return [Fields(value, f"{self._name(name)}[{i}]") for i, value in enumerate(self._of_type(name, list))]

    def strings(self, name: str) -> list[str]:
        """A list of strings."""
        values = self._of_type(name, list)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise FieldError(f"field '{self._name(name)}[{i}]': expected a str, found {type(value).__name__}")
            _writable(value, f"{self._name(name)}[{i}]")
        return values

    def numbers(self, name: str) -> dict[str, float]:
        """An object whose every value is a number from 0."""
        inner = self.object(name)
        return {_writable(key, self._name(name)): inner.number(key) for key in inner._values}

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """``read(name)``, or None where the field is absent or null."""
        return read(name) if name in self else None


def _writable(text: str, name: str) -> str:
    """Return ``text`` if UTF-8 can write it; a JSON escape may stand for a lone surrogate, which UTF-8 cannot."""
    if _SURROGATE.search(text):
        raise FieldError(f"field {name!r}: expected text that UTF-8 can write, found a lone surrogate")
    return text


def check_digest(text: str, name: str) -> str:
    """Return ``text`` if it is 64 lower-case hex digits; otherwise raise FieldError for ``name``."""
    if not _DIGEST.fullmatch(text):
        raise FieldError(f"field {name!r}: expected 64 lower-case hex digits, found {text[:80]!r}")
    return text


def parse_instant(text: str, name: str) -> int:
    """Unix seconds of an RFC 3339 instant in UTC with whole seconds; otherwise raise FieldError for ``name``."""
    complaint = FieldError(f"field {name!r}: expected an instant like 2026-01-02T03:04:05Z, found {text[:80]!r}")
    if not _INSTANT.fullmatch(text):
        raise complaint
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        raise complaint from None


def format_instant(instant: int) -> str:
    """RFC 3339 in UTC with whole seconds, as statements and receipts carry it."""
    return datetime.fromtimestamp(instant, UTC).isoformat()[:19] + "Z"  # strftime leaves out a year's leading zeros
