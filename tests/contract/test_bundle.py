"""Statements and bundles to and from bytes."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.contract.ca_factory import CAS, CLOCK, EPOCH, fields, text_of
from tidemark import note
from tidemark.bundle import (
    FORMAT,
    Anchor,
    Bundle,
    Cause,
    Role,
    Statement,
    StatementError,
    check_trust_domain,
    digest_of,
)
from tidemark.epoch import EpochClock
from tidemark.note import Signer
from tidemark.strict_json import LATEST_INSTANT, FieldError

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
INSTANTS = st.integers(0, LATEST_INSTANT)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    d = draw(st.integers(2, 10**7))
    clock = EpochClock(d, draw(st.integers(3 * d, 24 * d)), draw(st.integers(1, d - 1)))
    digests = iter(draw(st.lists(DIGESTS, min_size=6, max_size=6, unique=True)))
    epochs = draw(st.lists(st.integers(0, 10**4), min_size=1, max_size=3))
    anchors = [Anchor(Role.INTERMEDIATE, epoch, next(digests), draw(INSTANTS), draw(INSTANTS)) for epoch in epochs]
    roots = draw(st.integers(0, 2))
    anchors += [Anchor(Role.ROOT, None, next(digests), draw(INSTANTS), draw(INSTANTS)) for _ in range(roots)]
    return Statement(
        trust_domain=draw(st.from_regex(r"[a-z0-9]([a-z.-]{0,62}[a-z0-9])?", fullmatch=True)),
        sequence=draw(st.integers(1, 2**53 - 1)),
        clock=clock,
        epoch=epochs[0],
        cause=draw(st.sampled_from(Cause)),
        issued_at=draw(INSTANTS),
        next_update=draw(INSTANTS),
        expires_at=anchors[0].not_after,
        anchors=tuple(anchors),
        withdrawn=tuple(draw(st.lists(DIGESTS, max_size=3))),
        ca_sha256=draw(DIGESTS),
        previous=draw(DIGESTS),
    )


@given(statements())
def test_a_statement_reads_back_as_it_was_written(statement: Statement) -> None:
    text = statement.text()
    assert Statement.parse(text) == statement
    assert text.startswith(FORMAT + "\n")
    assert text.count("\n") == 2
    assert text.isascii()


def test_statement_text_has_the_documented_fields() -> None:
    written = Statement.parse(text_of(fields())).text()
    assert written == text_of(fields())
    assert list(json.loads(written.splitlines()[1])) == list(fields())
    assert list(fields()["anchors"][0]) == ["role", "epoch", "sha256", "not_before", "not_after"]
    assert list(fields()["anchors"][-1]) == ["role", "sha256", "not_before", "not_after"]


def test_parsed_statement_has_the_values_of_its_text() -> None:
    statement = Statement.parse(text_of(fields() | {"reason": "rollback", "withdrawn": ["ab" * 32]}))
    assert statement.clock == CLOCK
    assert (statement.epoch, statement.sequence, statement.cause) == (EPOCH, 7, Cause.ROLLBACK)
    assert [anchor.epoch for anchor in statement.anchors] == [EPOCH, EPOCH - 1, EPOCH - 2, EPOCH - 3, None]
    assert [anchor.sha256 for anchor in statement.anchors] == [ca.sha256 for ca in CAS]
    assert statement.intermediates == statement.anchors[:-1]
    assert statement.withdrawn == ("ab" * 32,)
    assert statement.expires_at == CLOCK.expiry(EPOCH)


def test_unknown_fields_are_ignored() -> None:
    known = Statement.parse(text_of(fields()))
    later = fields() | {"proof": {"deep": [1.5, None]}, "epochs": 7}
    later["anchors"][0]["algorithm"] = "ML-DSA-65"
    later["anchors"][-1]["epoch"] = 3  # roots have none, so theirs is unknown too
    assert Statement.parse(text_of(later)) == known


@pytest.mark.parametrize("name", fields())
def test_a_missing_field_is_named(name: str) -> None:
    found = fields()
    del found[name]
    with pytest.raises(StatementError, match=f"'{name}'.*no such field"):
        Statement.parse(text_of(found))


@pytest.mark.parametrize("name", fields()["anchors"][0])
def test_a_missing_field_of_an_anchor_is_named(name: str) -> None:
    found = fields()
    del found["anchors"][1][name]
    with pytest.raises(StatementError, match=rf"'anchors\[1\]\.{name}'.*no such field"):
        Statement.parse(text_of(found))


@pytest.mark.parametrize("name", [*fields(), "unknown"])
def test_a_field_given_twice_is_named(name: str) -> None:
    found = {"unknown": 1} | fields()
    text = text_of(found).replace("{", "{" + json.dumps(name) + ":" + json.dumps(found[name]) + ",", 1)
    with pytest.raises(StatementError, match=f"'{name}': expected once, found twice"):
        Statement.parse(text)


OTHER_TYPES: list[Any] = [None, True, -1, 1.5, "text", [], {}, ["x"], {"a": 1}, 2**53, "0" * 63]


@pytest.mark.parametrize("value", OTHER_TYPES, ids=repr)
@pytest.mark.parametrize("name", fields())
def test_a_field_of_another_type_is_named(name: str, value: Any) -> None:
    if (name, value) in (("trust_domain", "text"), ("trust_domain", "0" * 63), ("withdrawn", [])):
        return  # these are what they should be
    with pytest.raises(StatementError, match=name.replace("trust_domain", "trust.domain")):
        Statement.parse(text_of(fields() | {name: value}))


@pytest.mark.parametrize("value", OTHER_TYPES, ids=repr)
@pytest.mark.parametrize("name", fields()["anchors"][0])
def test_a_field_of_an_anchor_of_another_type_is_named(name: str, value: Any) -> None:
    found = fields()
    found["anchors"][1][name] = value
    with pytest.raises(StatementError, match=rf"anchors\[1\]\.{name}"):
        Statement.parse(text_of(found))


TEXTS: dict[str, Callable[[str], str]] = {
    "another version": lambda text: text.replace("/v1", "/v2"),
    "no version": lambda text: text.split("\n", 1)[1],
    "a space after the version": lambda text: text.replace("/v1\n", "/v1 \n"),
    "an empty line first": lambda text: "\n" + text,
    "an empty line last": lambda text: text + "\n",
    "a second line of JSON": lambda text: text + "{}\n",
    "JSON over two lines": lambda text: text.replace(",", ",\n", 1),
    "no newline at the end": lambda text: text.rstrip("\n"),
    "no JSON": lambda _: FORMAT + "\n\n",
    "a list": lambda _: FORMAT + "\n[]\n",
    "nothing": lambda _: "",
    "the version alone": lambda _: FORMAT + "\n",
    "an unknown role": lambda text: text.replace('"role":"root"', '"role":"leaf"'),
    "an unknown reason": lambda text: text.replace('"rotation"', '"whim"'),
    "a number with a fraction": lambda text: text.replace('"sequence":7', '"sequence":7.0'),
    "a sequence of 0": lambda text: text.replace('"sequence":7', '"sequence":0'),
    "NaN": lambda text: text.replace('"sequence":7', '"sequence":NaN'),
}


@pytest.mark.parametrize("fault", TEXTS)
def test_text_that_is_no_statement_is_refused(fault: str) -> None:
    text = text_of(fields())
    assert TEXTS[fault](text) != text
    with pytest.raises(StatementError):
        Statement.parse(TEXTS[fault](text))


def anchors(*places: int) -> list[dict[str, Any]]:
    return [fields()["anchors"][place] for place in places]


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no anchor": ({"anchors": []}, "anchors: expected one intermediate or more, then roots, found none"),
    "roots alone": ({"anchors": anchors(4)}, "anchors: expected one intermediate or more"),
    "a root first": ({"anchors": anchors(4, 0, 1)}, "anchors: .* found root, intermediate, intermediate"),
    "a root in between": ({"anchors": anchors(0, 4, 1)}, "anchors: .* found intermediate, root, intermediate"),
    "an anchor twice": ({"anchors": anchors(0, 1, 1, 4)}, "anchors: expected each certificate once"),
    "another epoch": ({"epoch": EPOCH + 1}, f"epoch: expected the first anchor's, {EPOCH}, found {EPOCH + 1}"),
    "another end": ({"expires_at": "2030-01-01T00:00:00Z"}, "expires_at: expected the first anchor's not_after"),
    "V of two epochs": ({"validity_seconds": 2400}, "validity_seconds = 2400 with epoch_seconds = 1200"),
    "V of 25 epochs": ({"validity_seconds": 30000}, "validity_seconds = 30000 with epoch_seconds = 1200"),
    "D of no length": ({"epoch_seconds": 0}, "epoch_seconds = 0"),
    "P of a whole epoch": ({"prepare_seconds": 1200}, "prepare_seconds = 1200 with epoch_seconds = 1200"),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_contradicting_fields_of_a_text_are_named(contradiction: str) -> None:
    changes, message = CONTRADICTIONS[contradiction]
    with pytest.raises(StatementError, match=message):
        Statement.parse(text_of(fields() | changes))


def test_an_epoch_beyond_the_calendar_is_refused() -> None:
    last = (LATEST_INSTANT - CLOCK.validity_seconds) // CLOCK.epoch_seconds
    for epoch in (last, last + 1, 2**53 - 1):
        far = fields() | {"epoch": epoch}
        far["anchors"][0]["epoch"] = epoch
        if epoch == last:
            assert Statement.parse(text_of(far)).epoch == last
            continue
        with pytest.raises(StatementError, match="epoch: expected one that ends before the year 10000"):
            Statement.parse(text_of(far))


def test_contradicting_fields_of_a_new_statement_are_refused() -> None:
    statement = Statement.parse(text_of(fields()))
    with pytest.raises(StatementError, match="epoch"):
        replace(statement, epoch=EPOCH - 1)
    with pytest.raises(StatementError, match="anchors"):
        replace(statement, anchors=statement.anchors[-1:])


@pytest.mark.parametrize("name", ["a", "bus.example.com", "A_1-b", "0", "x" * 64])
def test_allowed_trust_domains_pass(name: str) -> None:
    assert check_trust_domain(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "a+b", ".a", "a.", "-a", "ä", "a\n", "a\x00", "\u0661"])
def test_other_trust_domains_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="trust domain"):
        check_trust_domain(name)


def test_the_digest_is_of_the_text() -> None:
    assert digest_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of("a\n") != digest_of("a")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_bundle_reads_back_from_its_json(ca_crt: str, signed: str) -> None:
    bundle = Bundle(ca_crt.encode(), signed.encode())
    assert Bundle.from_json(bundle.to_json()) == bundle
    assert json.loads(bundle.to_json()) == {"ca.crt": ca_crt, "bundle.note": signed}
    assert bundle.size == len(ca_crt.encode()) + len(signed.encode())


def test_unverified_statement_is_the_one_of_the_note_signed_by_any_key() -> None:
    text = text_of(fields())
    signed = note.sign(text, [Signer.generate("bus.example.com/stranger")])
    statement, digest = Bundle(b"another ca.crt", bytes(signed)).unverified_statement()
    assert (statement, digest) == (Statement.parse(text), digest_of(text))


@pytest.mark.parametrize("found", [b"", b"no note", b"text\n\nno signature\n"])
def test_unverified_statement_of_a_broken_note_is_refused(found: bytes) -> None:
    with pytest.raises(StatementError, match="expected"):
        Bundle(b"", found).unverified_statement()


def test_a_bundle_that_is_not_utf_8_cannot_be_json() -> None:
    with pytest.raises(UnicodeDecodeError):
        Bundle(b"\xff", b"").to_json()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b'{"ca.crt":"x"}', "bundle.note"),
        (b'{"bundle.note":"x"}', "ca.crt"),
        (b'{"ca.crt":1,"bundle.note":"x"}', "ca.crt"),
        (b'{"ca.crt":"x","bundle.note":null}', "bundle.note"),
        (b'{"ca.crt":"x","ca.crt":"y","bundle.note":"x"}', "ca.crt"),
        (b'{"ca.crt":"\\ud800","bundle.note":"x"}', "ca.crt"),
    ],
)
def test_json_that_is_no_bundle_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        Bundle.from_json(data)
