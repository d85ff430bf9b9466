"""Receipts to and from JSON: what an agent sends is read as it was meant, what is not one is refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.receipt import (
    LONGEST_DETAIL,
    MAX_BYTES,
    AgentState,
    Failure,
    LeafReport,
    Level,
    PodClass,
    Receipt,
    TargetReport,
)
from tidemark.strict_json import LATEST_INSTANT
from tidemark.verify import Mark

RECEIPT = Receipt(
    pod="nats-0",
    uid="0c6fa3a4-9d39-4d4d-a9c3-5a1f0d5b2f60",
    nonce="5f2c9e",
    number=12,
    version="0.1.0",
    pod_class=PodClass.REQUIRED,
    state=AgentState.PROVEN,
    targets=(
        TargetReport("signal:?process=nats-server", Level.PROVEN, Level.PROVEN),
        TargetReport("http://127.0.0.1:9000/-/reload", Level.SIGNALLED, Level.PROVEN, "answered without a digest"),
    ),
    highest=Mark(9, "09" * 32),
    installed=Mark(8, "08" * 32),
    proven=Mark(7, "07" * 32),
    reverted=Mark(9, "09" * 32),
    leaf=LeafReport("aa" * 32, "CN=intermediate epoch 5,O=bus.test", "bb" * 32, "5a:a5", 1_776_000_000, 1_776_002_400),
    failure=Failure("server_log", "Failed to reload server configuration: …", 1_776_000_100, 9, "09" * 32),
    stages={"verify": 0.0125, "prove": 2.0},
    keys=("bus.test/a+1f2e3d4c",),
    clock=1_776_000_200,
)
STARTING = replace(
    RECEIPT,
    state=AgentState.STARTING,
    pod_class=PodClass.APPLICATION,
    targets=(),
    highest=None,
    installed=None,
    proven=None,
    reverted=None,
    leaf=None,
    failure=None,
    stages={},
    keys=(),
)

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
INSTANTS = st.integers(0, LATEST_INSTANT)
NUMBERS = st.integers(0, 2**53 - 1)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
MARKS = st.none() | st.builds(Mark, NUMBERS, DIGESTS)
TARGETS = st.builds(TargetReport, WORDS, st.sampled_from(Level), st.sampled_from(Level), WORDS)
RECEIPTS = st.builds(
    Receipt,
    pod=WORDS,
    uid=WORDS,
    nonce=WORDS,
    number=NUMBERS,
    version=WORDS,
    pod_class=st.sampled_from(PodClass),
    state=st.sampled_from(AgentState),
    targets=st.lists(TARGETS, max_size=3).map(tuple),
    highest=MARKS,
    installed=MARKS,
    proven=MARKS,
    reverted=MARKS,
    leaf=st.none() | st.builds(LeafReport, DIGESTS, WORDS, DIGESTS, WORDS, INSTANTS, INSTANTS),
    failure=st.none() | st.builds(Failure, WORDS, WORDS, INSTANTS, NUMBERS, DIGESTS | st.just("")),
    stages=st.dictionaries(WORDS, st.floats(0, 1e6), max_size=3),
    keys=st.lists(WORDS, max_size=3).map(tuple),
    clock=INSTANTS,
)


@given(RECEIPTS)
def test_a_receipt_reads_back_as_it_was_sent(receipt: Receipt) -> None:
    assert Receipt.from_json(receipt.to_json()) == receipt


@pytest.mark.parametrize("receipt", [RECEIPT, STARTING], ids=["full", "starting"])
def test_full_and_empty_receipts_read_back(receipt: Receipt) -> None:
    assert Receipt.from_json(receipt.to_json()) == receipt


def test_a_receipt_is_one_line_of_ascii() -> None:
    assert RECEIPT.to_json().isascii()
    assert b"\n" not in RECEIPT.to_json()


def sent(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(RECEIPT.to_json())
    return document | changes


def read(document: dict[str, Any]) -> Receipt:
    return Receipt.from_json(json.dumps(document).encode())


def test_unknown_fields_are_ignored_and_null_is_absent() -> None:
    later = sent(proofs={"new": [1]}, engine="rust")
    later["leaf"]["ocsp"] = True
    later["targets"][0]["latency"] = 1.5
    assert read(later) == RECEIPT
    for name in ("highest", "installed", "proven", "reverted", "leaf", "failure"):
        without = sent()
        del without[name]
        assert read(without) == read(sent(**{name: None}))
        assert getattr(read(without), name) is None


OPTIONAL = {"highest", "installed", "proven", "reverted", "leaf", "failure"}
NAMES = sorted(json.loads(RECEIPT.to_json()))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OPTIONAL])
def test_a_missing_field_is_named(name: str) -> None:
    document = sent()
    del document[name]
    with pytest.raises(ValueError, match=f"'{name}'.*no such field"):
        read(document)


@pytest.mark.parametrize("value", [True, -1, 1.5, "x" * 5000, ["x", 1], {"a": "b"}, 2**53], ids=lambda v: str(v)[:9])
@pytest.mark.parametrize("name", NAMES)
def test_a_field_of_another_kind_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}"):
        read(sent(**{name: value}))


def inside(name: str, **changes: Any) -> dict[str, Any]:
    document = sent()
    at = document[name][0] if name == "targets" else document[name]
    at.update(changes)
    return document


BAD: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a pod name of 254 characters": (lambda: sent(pod="x" * 254), "'pod': expected at most 253"),
    "a uid of 65 characters": (lambda: sent(uid="x" * 65), "'uid': expected at most 64"),
    "an unknown class": (lambda: sent(**{"class": "optional"}), "'class': expected one of required, application"),
    "an unknown state": (lambda: sent(state="fine"), "'state': expected one of starting"),
    "an unknown level": (lambda: inside("targets", level="sure"), "level: expected one of none, signalled"),
    "a level in capitals": (lambda: inside("targets", level="PROVEN"), "level: expected one of"),
    "a level that only looks alike": (lambda: inside("targets", level="\u017fignalled"), "level: expected one of"),
    "a level as number": (lambda: inside("targets", allowed=3), r"'targets\[0\]\.allowed'"),
    "a digest that is none": (lambda: inside("installed", digest="xyz"), r"'installed\.digest'"),
    "a negative sequence": (lambda: inside("highest", sequence=-1), r"'highest\.sequence'"),
    "a proven set without digest": (lambda: sent(proven={"sequence": 3}), r"'proven\.digest'"),
    "a leaf whose end is no instant": (lambda: inside("leaf", not_after=1_776_002_400), r"'leaf\.not_after'"),
    "a failure without a time": (lambda: inside("failure", at=None), r"'failure\.at'"),
    "a stage that took less than nothing": (lambda: sent(stages={"verify": -1.0}), r"'stages\.verify'"),
    "a stage as text": (lambda: sent(stages={"verify": "fast"}), r"'stages\.verify'"),
    "a key that is no text": (lambda: sent(keys=["a", 1]), r"'keys\[1\]'"),
    "half a surrogate pair in a name": (lambda: sent(pod="nats-\ud800"), "'pod': .*lone surrogate"),
    "half a surrogate pair in a stage": (lambda: sent(stages={"\udc00": 1}), "'stages': .*lone surrogate"),
    "targets that are none": (lambda: sent(targets=["signal:"]), r"'targets\[0\]'"),
    "a clock that is off the calendar": (lambda: sent(clock="2026-02-30T00:00:00Z"), "'clock'"),
}


@pytest.mark.parametrize("fault", BAD)
def test_meaningless_values_are_refused_by_name(fault: str) -> None:
    make, message = BAD[fault]
    with pytest.raises(ValueError, match=message) as refused:
        read(make())
    assert len(str(refused.value)) < 400
    str(refused.value).encode()


def test_the_longest_receipt_that_is_read() -> None:
    spare = MAX_BYTES - len(RECEIPT.to_json()) - len(',"x":""')
    exact = RECEIPT.to_json()[:-1] + b',"x":"' + b"y" * spare + b'"}'
    assert len(exact) == MAX_BYTES
    assert Receipt.from_json(exact) == RECEIPT
    with pytest.raises(ValueError, match=f"expected at most {MAX_BYTES} bytes, found {MAX_BYTES + 1}"):
        Receipt.from_json(exact + b" ")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"pod":NaN}', b"[" * 60_000])
def test_text_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        Receipt.from_json(data)


@given(st.binary(max_size=100), st.integers(0, 3))
def test_any_bytes_are_a_receipt_or_a_value_error(data: bytes, at: int) -> None:
    whole = RECEIPT.to_json()
    middle = len(whole) * at // 3
    try:
        Receipt.from_json(whole[:middle] + data + whole[middle:])
    except ValueError:
        return


def test_a_receipt_of_long_and_odd_texts_is_cut_rather_than_refused() -> None:
    odd = "file \udcff\n" + "ä😀" * 10_000
    receipt = replace(
        RECEIPT,
        targets=tuple(TargetReport("signal:", Level.NONE, Level.PROVEN, odd) for _ in range(4)),
        failure=Failure("output", odd, 5),
        leaf=replace(RECEIPT.leaf, issuer=odd) if RECEIPT.leaf else None,
    )
    again = Receipt.from_json(receipt.to_json())
    assert again.failure
    assert again.failure.detail.startswith("file ?\nä😀")
    assert len(again.failure.detail) == LONGEST_DETAIL
    assert [len(target.detail) for target in again.targets] == [LONGEST_DETAIL] * 4
    assert replace(again, targets=(), failure=None, leaf=None) == replace(RECEIPT, targets=(), failure=None, leaf=None)


def test_levels_are_ordered_by_certainty() -> None:
    assert sorted(Level, reverse=True) == [Level.PROVEN, Level.RELOADED, Level.SIGNALLED, Level.NONE]
    assert [Level.parse(level.word) for level in Level] == list(Level)
