"""Strict JSON: what JSON readers disagree on is refused, and the error names the field."""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.strict_json import (
    LATEST_INSTANT,
    MAX_INTEGER,
    FieldError,
    Fields,
    dump_object,
    format_instant,
    parse_instant,
    parse_object,
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


READERS: dict[str, Callable[[Fields], object]] = {
    "string": lambda fields: fields.string("x"),
    "integer": lambda fields: fields.integer("x"),
    "number": lambda fields: fields.number("x"),
    "flag": lambda fields: fields.flag("x"),
    "instant": lambda fields: fields.instant("x"),
    "digest": lambda fields: fields.digest("x"),
    "member": lambda fields: fields.member("x", Colour),
    "object": lambda fields: fields.object("x"),
    "objects": lambda fields: fields.objects("x"),
    "strings": lambda fields: fields.strings("x"),
    "numbers": lambda fields: fields.numbers("x"),
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(JSON, st.sampled_from(sorted(READERS)))
def test_any_value_reads_as_its_type_or_is_a_field_error(value: object, reader: str) -> None:
    fields = parse_object(json.dumps({"x": value}))
    try:
        READERS[reader](fields)
    except FieldError as error:
        refusal = str(error)
    else:
        return
    assert re.search("['\"]x", refusal)  # in the quotes that Python chooses


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_any_text_is_an_object_or_a_field_error(data: str | bytes) -> None:
    try:
        assert isinstance(parse_object(data), Fields)
    except FieldError:
        return


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_field_is_named(reader: str) -> None:
    with pytest.raises(FieldError, match=r"'x': .* no such field"):
        READERS[reader](parse_object("{}"))


WRONG: dict[str, list[Any]] = {
    "string": [1, True, None, [], {}, "\ud800", "a\udfffb", "x" * 4097],
    "integer": [1.0, "1", True, None, -1, MAX_INTEGER + 1, 10**4000, [1]],
    "number": ["1", True, None, -1, -0.5, math.inf, 1e300, MAX_INTEGER + 1],
    "flag": [0, 1, "true", None],
    "instant": [0, None, ""],
    "digest": ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", 0],
    "member": ["green", "RED", "", 1, None],
    "object": [[], "{}", None],
    "objects": [{}, [1], [[]], [None]],
    "strings": ["a", ["a", 1], [None], ["a", "\udc00"], {}],
    "numbers": [{"a": "1"}, {"a": True}, {"a": -1}, {"\ud800": 1}, [1]],
}


@pytest.mark.parametrize(("reader", "value"), [(reader, value) for reader, values in WRONG.items() for value in values])
def test_a_value_of_another_kind_is_refused_by_name(reader: str, value: object) -> None:
    text = json.dumps({"x": value}).replace("Infinity", "1e999")
    with pytest.raises(FieldError, match="'x") as refused:
        READERS[reader](parse_object(text))
    assert len(str(refused.value)) < 400
    str(refused.value).encode()


RIGHT: dict[str, list[tuple[Any, Any]]] = {
    "string": [("", ""), ("ä\u2028😀", "ä\u2028😀"), ("x" * 4096, "x" * 4096)],
    "integer": [(0, 0), (MAX_INTEGER, MAX_INTEGER)],
    "number": [(0, 0.0), (1.5, 1.5), (7, 7.0), (1e15, 1e15)],
    "flag": [(True, True), (False, False)],
    "instant": [("1970-01-01T00:00:00Z", 0), ("9999-12-31T23:59:59Z", LATEST_INSTANT)],
    "digest": [("0a" * 32, "0a" * 32)],
    "member": [("red", Colour.RED)],
    "strings": [([], []), (["a", ""], ["a", ""])],
    "numbers": [({}, {}), ({"a": 1, "b": 2.5}, {"a": 1.0, "b": 2.5})],
}


@pytest.mark.parametrize(
    ("reader", "value", "read"), [(reader, *pair) for reader, pairs in RIGHT.items() for pair in pairs]
)
def test_values_are_read_by_type(reader: str, value: object, read: object) -> None:
    assert READERS[reader](parse_object(json.dumps({"x": value}).encode())) == read


NOT_ONE_OBJECT = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "two objects": b"{}{}",
    "a trailing comma": b'{"a":1,}',
    "cut off": b'{"a":1',
    "NaN": b'{"a":NaN}',
    "minus infinity": b'{"a":[-Infinity]}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32-be"),
    "half a surrogate pair in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "Latin-1": b'{"a":"\xe4"}',
    "a number of five thousand digits": b'{"a":' + b"1" * 5000 + b"}",
    "nesting without end": b'{"a":' + b"[" * 200_000,
    "objects without end": b'{"a":' * 100_000,
    "a field twice": b'{"a":1,"a":1}',
    "a field twice inside": b'{"b":[{"a":1,"c":2,"a":3}]}',
    "a field twice, escaped": b'{"a":1,"\\u0061":2}',
}


@pytest.mark.parametrize("fault", NOT_ONE_OBJECT)
def test_text_that_is_not_one_plain_object_is_refused(fault: str) -> None:
    with pytest.raises(FieldError) as refused:
        parse_object(NOT_ONE_OBJECT[fault])
    if "twice" in fault:
        assert "'a': expected once, found twice" in str(refused.value)


def test_a_field_given_twice_is_found_among_very_many() -> None:
    names = [f'"field{i}":0' for i in range(100_000)]  # minutes, if each were looked for among all
    with pytest.raises(FieldError, match="'field99999': expected once"):
        parse_object("{" + ",".join([*names, '"field99999":1']) + "}")


def test_fields_inside_are_named_by_their_path() -> None:
    fields = parse_object('{"outer":{"inner":1},"list":[{"a":1},{"a":"b"}]}')
    with pytest.raises(FieldError, match=r"'outer\.inner'"):
        fields.object("outer").string("inner")
    with pytest.raises(FieldError, match=r"'list\[1\]\.a'"):
        fields.objects("list")[1].integer("a")


def test_null_is_absent_and_unknown_fields_are_ignored() -> None:
    fields = parse_object('{"a":null,"b":1,"whatever":{"deep":[1.5,null]}}')
    assert "a" not in fields
    assert "c" not in fields
    assert "b" in fields
    assert fields.optional("a", fields.integer) is None
    assert fields.optional("b", fields.integer) == 1
    with pytest.raises(FieldError, match="'a'"):
        fields.integer("a")


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=4))
def test_dumped_object_is_one_line_of_ascii_that_reads_back(values: dict[str, Any]) -> None:
    text = dump_object(values)
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text) == values


@given(st.integers(-62_135_596_800, LATEST_INSTANT))
def test_instants_read_back_from_the_year_1_to_9999(instant: int) -> None:
    assert parse_instant(format_instant(instant), "x") == instant


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001 - made aware below
def test_instants_agree_with_the_calendar(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    text = f"{moment.year:04}-{moment.month:02}-{moment.day:02}T{moment.hour:02}:{moment.minute:02}:{moment.second:02}Z"
    assert parse_instant(text, "x") == int(moment.timestamp())
    assert format_instant(int(moment.timestamp())) == text


NO_INSTANTS = [
    "",
    "2026-01-02",
    "2026-01-02T03:04Z",
    "2026-01-02T03:04:05",
    "2026-01-02t03:04:05z",
    "2026-01-02 03:04:05Z",
    "2026-01-02T03:04:05+00:00",
    "2026-01-02T03:04:05.0Z",
    "2026-01-02T03:04:05Z\n",
    " 2026-01-02T03:04:05Z",
    "2026-1-2T03:04:05Z",
    "20260102T030405Z",
    "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-02-29T00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T23:60:00Z",
    "2026-12-31T23:59:60Z",
    "٢٠٢٦-01-02T03:04:05Z",
]


@pytest.mark.parametrize("text", NO_INSTANTS)
def test_other_spellings_of_an_instant_are_refused_by_name(text: str) -> None:
    with pytest.raises(FieldError, match="'x': expected an instant like"):
        parse_instant(text, "x")
