"""Reads a TOML document and collects every fault with its full key (``agents[1].class``)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar, overload

from tidemark.faults import Faults

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_KINDS = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
_REQUIRED = ""


class TomlTable:
    """One table of the document. A wrong value is recorded as a fault; a harmless value of the right type is returned.

    ``faults`` is shared by all tables of a document. ``close`` adds the keys that the program does not know.
    """

    def __init__(self, values: Mapping[str, object], faults: Faults | None = None) -> None:
        self.faults = Faults() if faults is None else faults
        self._values = values
        self._known_keys: list[str] = []
        self._inner: list[TomlTable] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def fault(self, key: str, complaint: str) -> None:
        """Record a fault of ``key``."""
        self.faults.add_to(key, complaint)

    def close(self) -> Faults:
        """Record unknown keys, in this table and in every table inside; return all faults of the document."""
        for key in self._values:
            if key not in self._known_keys:
                self.fault(key, f"unknown; expected one of {', '.join(sorted(self._known_keys))}")
        for table in self._inner:
            table.close()
        return self.faults

    def text(self, key: str, default: str = _REQUIRED, longest: int = 4096) -> str:
        """A text that is not empty; required unless there is a default."""
        value = self._of_type(key, str, default)
        if key not in self._values and default is _REQUIRED:
            self.fault(key, "expected text, found no such key")
        elif key in self._values and isinstance(self._values[key], str) and not 0 < len(value) <= longest:
            self.fault(key, f"expected 1 to {longest} characters, found {len(value)}")
        return value

    @overload
    def integer(self, key: str, default: int) -> int: ...
    @overload
    def integer(self, key: str, default: None) -> int | None: ...
    def integer(self, key: str, default: int | None) -> int | None:
        """A whole number."""
        value = self._of_type(key, int, 0)
        return value if key in self._values else default

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        return self._of_type(key, bool, default)

    def member(self, key: str, kind: type[E], default: E) -> E:
        """One of the values of an enumeration."""
        value = self._of_type(key, str, default.value)
        if value in [member.value for member in kind]:
            return kind(value)
        self.fault(key, f"expected one of {', '.join(kind)}, found {value!r}")
        return default

    def texts(self, key: str, default: list[str], least: int = 0) -> tuple[str, ...]:
        """A list of ``least`` texts or more."""
        before = len(self.faults)
        values = self._of_type(key, list, default)
        if not all(isinstance(value, str) for value in values):
            self.fault(key, f"expected a list of texts, found {values!r}")
            return tuple(default)
        if len(values) < least and len(self.faults) == before:
            self.fault(key, f"expected {least} or more, found {len(values)}")
        return tuple(values)

    def table(self, key: str) -> "TomlTable":
        """A table inside this one; empty where the key is missing."""
        inner = TomlTable(self._of_type(key, dict, {}), self.faults.below(f"{key}."))
        self._inner.append(inner)
        return inner

    def tables(self, key: str) -> list["TomlTable"]:
        """An array of tables (``[[key]]``)."""
        values = self._of_type(key, list, [])
        if not all(isinstance(value, dict) for value in values):
            self.fault(key, f"expected tables ([[{self.faults.prefix}{key}]]), found {values!r}")
            return []
        inner = [TomlTable(value, self.faults.below(f"{key}[{i}].")) for i, value in enumerate(values)]
        self._inner += inner
        return inner

    def _of_type(self, key: str, kind: type[T], default: T) -> T:
        self._known_keys.append(key)
        value = self._values.get(key, default)
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        self.fault(key, f"expected {_KINDS[kind]}, found {value!r}")
        return default
