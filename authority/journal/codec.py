"""Journal records as JSON objects, strictly read; every journal stores this form. Pure."""

import json
from collections.abc import Callable
from typing import Any

from authority.journal.interface import JournalError
from authority.journal.record_types import (
    ActivationRecord,
    Entry,
    LeafRecord,
    Opening,
    OverrideRecord,
    Record,
    StatementRecord,
    WithdrawalRecord,
)
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle, Cause
from tidemark.strict_json import FieldError, Fields, check_digest, dump_object, format_instant, parse_object
from tidemark.verify import MAX_BYTES

FORMAT = "tidemark/journal/v1"
_LONGEST_TEXT = 4096


def dump_record(record: Record) -> str:
    """One line of JSON. Raises JournalError for what ``load_record`` would not read back."""
    # Read back before it is stored: a record that later starts could not read would end every one of them.
    text = dump_object(_to_fields(record))
    load_record(text)
    return text


def load_record(text: str | bytes) -> Record:
    """Read what ``dump_record`` wrote.

    Raises:
        JournalError: anything else; the message names the field.
    """
    try:
        return _from_fields(parse_object(text))
    except ValueError as error:  # FieldError, or a lone surrogate
        raise JournalError(str(error)) from None


def dump_snapshot(keep: tuple[Entry, ...], through: int) -> str:
    """The records that are still needed of those up to position ``through``."""
    entries = [{"position": entry.position, **_to_fields(entry.record)} for entry in keep]
    return json.dumps({"format": FORMAT, "through": through, "entries": entries}, separators=(",", ":"))


def load_snapshot(text: str | bytes) -> tuple[tuple[Entry, ...], int]:
    """Read what ``dump_snapshot`` wrote: the entries and ``through``. Raises JournalError."""
    try:
        fields = parse_object(text)
        _check_format(fields)
        entries = tuple(
            Entry(entry.integer("position", least=1), _from_fields(entry)) for entry in fields.objects("entries")
        )
        return entries, fields.integer("through", least=1)
    except ValueError as error:  # FieldError, or a lone surrogate
        raise JournalError(str(error)) from None


def _to_fields(record: Record) -> dict[str, Any]:
    fields: dict[str, Any]
    match record:
        case StatementRecord():
            kind, fields = "statement", {"intent": record.ca_id, "who": record.who, "reason": record.reason}
            fields |= {CA_FILE: record.bundle.ca.decode(), NOTE_FILE: record.bundle.note.decode()}
        case ActivationRecord():
            kind, fields = "activation", {"ca": record.ca, "opening": record.opening.value}
            fields |= {"unproven": list(record.unproven), "left_behind": record.left_behind}
            fields |= {"skipped": list(record.skipped)}
        case OverrideRecord():
            kind, fields = "override", {"ca": record.ca, "who": record.who, "reason": record.reason}
        case WithdrawalRecord():
            kind, fields = "withdrawal", {"ca": record.ca, "cause": record.cause.value}
            fields |= {"urgent": record.urgent, "automatic": record.automatic}
            fields |= {"who": record.who, "reason": record.reason}
        case LeafRecord():
            kind, fields = "leaf", {"ca": record.ca, "name": record.name, "names": list(record.names)}
            fields |= {"serial": record.serial, "who": record.who, "reason": record.reason}
    return {"format": FORMAT, "record": kind, "at": format_instant(record.at), **fields}


def _from_fields(fields: Fields) -> Record:
    _check_format(fields)
    kind = fields.string("record")
    if kind not in _READERS:
        raise FieldError(
            f"field 'record': expected one of {', '.join(_READERS)}, found {kind[:80]!r}; was the journal written by a "
            f"later version?"
        )
    return _READERS[kind](fields)


def _check_format(fields: Fields) -> None:
    if (found := fields.string("format")) != FORMAT:
        raise FieldError(f"field 'format': expected {FORMAT}, found {found[:80]!r}")


def _statement(fields: Fields) -> StatementRecord:
    return StatementRecord(
        at=fields.instant("at"),
        ca_id=fields.string("intent"),
        bundle=Bundle(fields.string(CA_FILE, MAX_BYTES).encode(), fields.string(NOTE_FILE, MAX_BYTES).encode()),
        who=fields.string("who", _LONGEST_TEXT),
        reason=fields.string("reason", _LONGEST_TEXT),
    )


def _activation(fields: Fields) -> ActivationRecord:
    unproven = tuple(fields.strings("unproven"))
    return ActivationRecord(
        at=fields.instant("at"),
        ca=fields.digest("ca"),
        opening=fields.member("opening", Opening),
        unproven=unproven,
        left_behind=fields.integer("left_behind") if "left_behind" in fields else len(unproven),
        skipped=tuple(check_digest(sha256, "skipped") for sha256 in fields.strings("skipped")),
    )


def _override(fields: Fields) -> OverrideRecord:
    return OverrideRecord(
        at=fields.instant("at"),
        ca=fields.digest("ca"),
        who=fields.string("who", _LONGEST_TEXT),
        reason=fields.string("reason", _LONGEST_TEXT),
    )


def _withdrawal(fields: Fields) -> WithdrawalRecord:
    cause = fields.member("cause", Cause)
    if cause not in (Cause.ROLLBACK, Cause.REVOCATION):
        raise FieldError(f"field 'cause': expected {Cause.ROLLBACK} or {Cause.REVOCATION}, found {cause}")
    return WithdrawalRecord(
        at=fields.instant("at"),
        ca=fields.digest("ca"),
        cause=cause,
        urgent=fields.flag("urgent"),
        automatic=fields.flag("automatic"),
        who=fields.string("who", _LONGEST_TEXT),
        reason=fields.string("reason", _LONGEST_TEXT),
    )


def _leaf(fields: Fields) -> LeafRecord:
    return LeafRecord(
        at=fields.instant("at"),
        ca=fields.digest("ca"),
        name=fields.string("name"),
        names=tuple(fields.strings("names")),
        serial=fields.string("serial"),
        who=fields.string("who", _LONGEST_TEXT),
        reason=fields.string("reason", _LONGEST_TEXT),
    )


_READERS: dict[str, Callable[[Fields], Record]] = {
    "statement": _statement,
    "activation": _activation,
    "override": _override,
    "withdrawal": _withdrawal,
    "leaf": _leaf,
}
