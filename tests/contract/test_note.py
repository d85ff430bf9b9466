"""Signed notes: the published vectors, and what no note may get away with."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.harness.contract.ca_factory import SECOND, SIGNER, STRANGER, signer
from tidemark import note
from tidemark.note import NoteError, SignatureError, Signer, Verifier

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "signed-note.json").read_text())
KEYS = {name: Verifier.parse(text) for name, text in VECTORS["keys"].items()}

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in range(0x20) if c != 0x0A]), max_size=60
).map(lambda text: text + "\n")


@pytest.mark.parametrize("vector", VECTORS["notes"], ids=lambda vector: vector["good"][0])
def test_published_notes_verify_with_their_keys_and_no_other(vector: dict[str, Any]) -> None:
    signed = note.parse(vector["note"].encode())
    assert bytes(signed) == vector["note"].encode()
    for name, key in KEYS.items():
        if name in vector["good"]:
            assert note.verify(signed, [key]) == (key,)
        else:
            with pytest.raises(SignatureError, match=r"expected 1 signature\(s\) by trusted keys"):
                note.verify(signed, [key])
    good = tuple(KEYS[name] for name in vector["good"])
    assert note.verify(signed, list(KEYS.values()), threshold=len(good)) == good
    with pytest.raises(SignatureError):
        note.verify(signed, list(KEYS.values()), threshold=len(good) + 1)


@pytest.mark.parametrize("key", VECTORS["keys"].values())
def test_published_keys_read_and_write_the_same(key: str) -> None:
    assert str(Verifier.parse(key)) == key


@pytest.mark.parametrize("key", VECTORS["bad_keys"])
def test_published_bad_keys_are_refused(key: str) -> None:
    with pytest.raises(NoteError):
        Verifier.parse(key)


def test_the_published_signing_key_signs_to_the_published_bytes() -> None:
    private = Signer.parse(VECTORS["signer_keys"]["PeterNeumann"])
    assert private.dump() == VECTORS["signer_keys"]["PeterNeumann"]
    assert private.verifier == KEYS["PeterNeumann"]
    published = note.parse(VECTORS["notes"][0]["note"].encode())
    assert private.sign(published.text) == published.signatures[0]


@given(TEXTS, st.permutations([SIGNER, SECOND, STRANGER]), st.integers(1, 3))
def test_signed_note_reads_back(text: str, signers: list[Signer], count: int) -> None:
    signed = note.sign(text, signers[:count])
    read = note.parse(bytes(signed))
    assert read == signed
    assert note.verify(read, [s.verifier for s in signers], threshold=count) == tuple(
        s.verifier for s in signers[:count]
    )


@given(TEXTS, st.data())
def test_any_flipped_bit_is_refused(text: str, data: st.DataObject) -> None:
    whole = bytearray(bytes(note.sign(text, [SIGNER])))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(NoteError):
        note.verify(note.parse(bytes(whole)), [SIGNER.verifier])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_note_or_a_note_error(data: bytes) -> None:
    for candidate in (data, b"text\n\n" + data, b"text\n\n\xe2\x80\x94 " + data + b"\n"):
        try:
            note.verify(note.parse(candidate), [SIGNER.verifier])
        except NoteError:
            continue
        raise AssertionError("expected a note that no key has signed to be refused")


def test_unknown_keys_are_ignored_and_one_trusted_signature_suffices() -> None:
    signed = note.sign("text\n", [STRANGER, SIGNER])
    assert note.verify(signed, [SECOND.verifier, SIGNER.verifier]) == (SIGNER.verifier,)
    unknown_algorithm = note.Signature(SIGNER.name, b"\x04abc", b"x" * 100)
    assert note.verify(replace(signed, signatures=(unknown_algorithm, *signed.signatures)), [SIGNER.verifier])


def test_a_wrong_signature_by_a_trusted_key_is_refused_even_beside_a_good_one() -> None:
    good = note.sign("text\n", [SIGNER])
    forged = replace(SECOND.sign("other text\n"))
    with pytest.raises(SignatureError, match=f"{SECOND.name}.*does not"):
        note.verify(replace(good, signatures=(*good.signatures, forged)), [SIGNER.verifier, SECOND.verifier])


def test_two_signatures_of_one_key_count_once() -> None:
    signed = note.sign("text\n", [SIGNER, SIGNER])
    with pytest.raises(SignatureError):
        note.verify(signed, [SIGNER.verifier, SECOND.verifier], threshold=2)


def test_of_two_lines_by_one_key_the_first_counts() -> None:
    good, bad = SIGNER.sign("text\n"), SIGNER.sign("another text\n")
    for lines, passes in (((good, bad), True), ((bad, good), False)):
        signed = replace(note.sign("text\n", []), signatures=lines)
        if passes:
            assert note.verify(signed, [SIGNER.verifier]) == (SIGNER.verifier,)
        else:
            with pytest.raises(SignatureError):
                note.verify(signed, [SIGNER.verifier])


def test_the_same_name_with_another_key_is_another_signer() -> None:
    impostor = Signer(SIGNER.name, STRANGER.private_key)
    with pytest.raises(SignatureError):
        note.verify(note.sign("text\n", [impostor]), [SIGNER.verifier])
    claimed = replace(impostor.sign("text\n"), key_id=SIGNER.verifier.key_id)
    with pytest.raises(SignatureError, match="does not"):
        note.verify(replace(note.sign("text\n", []), signatures=(claimed,)), [SIGNER.verifier])


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_that_any_note_reaches_is_an_error_of_the_caller(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold: expected 1 or more"):
        note.verify(note.sign("text\n", [STRANGER]), [SIGNER.verifier], threshold)


GOOD = bytes(note.sign("text\n", [SIGNER])).decode()
LINE = GOOD.splitlines()[-1]
DATA = LINE.split(" ")[2]

MALFORMED = {
    "empty": "",
    "no newline at the end": GOOD.removesuffix("\n"),
    "no empty line": GOOD.replace("\n\n", "\n"),
    "no signature": "text\n\n",
    "text alone": "text\n",
    "signatures alone": LINE + "\n",
    "carriage returns": GOOD.replace("\n", "\r\n"),
    "a control character": GOOD.replace("text", "te\x00xt"),
    "a hyphen for the dash": GOOD.replace("— ", "- "),
    "no name": GOOD.replace(f" {SIGNER.name}", ""),
    "an empty name": GOOD.replace(SIGNER.name, ""),
    "a plus in the name": GOOD.replace(SIGNER.name, "a+b"),
    "two spaces": GOOD.replace(f"{SIGNER.name} ", f"{SIGNER.name}  "),
    "a space at the end": GOOD.removesuffix("\n") + " \n",
    "an unprintable name": GOOD.replace(SIGNER.name, "a\u200bb"),
    "no base64": GOOD.replace(DATA, "****"),
    "no signature bytes": GOOD.replace(DATA, base64.b64encode(SIGNER.verifier.key_id).decode()),
    "padding left out": GOOD.replace(DATA, DATA.rstrip("=")),
    "stray bits in base64": GOOD.replace(DATA, DATA[:-2] + chr(ord(DATA[-2]) + 1) + "="),
    "a line that is none": GOOD + "something else\n",
    "an empty line after": GOOD + "\n",
    "too many signatures": "text\n\n" + (LINE + "\n") * 101,
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_notes_are_refused(fault: str) -> None:
    with pytest.raises(NoteError):
        note.parse(MALFORMED[fault].encode())


def test_a_note_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(NoteError, match="UTF-8"):
        note.parse(GOOD.encode().replace(b"text", b"te\xfft"))


def test_as_many_signatures_as_allowed_pass() -> None:
    whole = note.sign("text\n", [*(signer(str(i)) for i in range(99)), SIGNER])
    assert note.verify(note.parse(bytes(whole)), [SIGNER.verifier])


@pytest.mark.parametrize("text", ["", "no newline", "tab\there\n", "\x7f\r\n", "half a pair \ud800\n"])
def test_text_that_no_note_can_hold_is_not_signed(text: str) -> None:
    with pytest.raises(NoteError):
        note.sign(text, [SIGNER])


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2028b", "a\x07b"])
def test_key_names_are_checked_in_signer_and_verifier(name: str) -> None:
    with pytest.raises(NoteError, match="key name"):
        Verifier(name, SIGNER.verifier.public_key)
    with pytest.raises(NoteError, match="key name"):
        Signer(name, SIGNER.private_key)


def key_text(data: bytes, name: str = "n") -> str:
    return f"{name}+00000000+{base64.b64encode(data).decode()}"


PUBLIC = SIGNER.verifier.public_key
BAD_VERIFIERS = {
    "empty": ("", "found 1 of these three parts"),
    "two parts": ("name+00000000", "found 2"),
    "upper-case id": (
        str(SIGNER.verifier).replace(SIGNER.verifier.hash, SIGNER.verifier.hash.upper()),
        "lower-case hex",
    ),
    "another's id": (str(SIGNER.verifier).replace(SIGNER.verifier.hash, "00000000"), "expected key id"),
    "another algorithm": (key_text(b"\x02" + PUBLIC), "0x01"),
    "no bytes": ("n+00000000+", "0x01"),
    "too short": (key_text(b"\x01" + PUBLIC[:31]), "expected 33 bytes, found 32"),
    "too long": (key_text(b"\x01" + PUBLIC + b"x"), "expected 33 bytes, found 34"),
    "a name with a space": (key_text(b"\x01" + PUBLIC, "n n"), "printable name"),
}


@pytest.mark.parametrize("fault", BAD_VERIFIERS)
def test_malformed_verifier_keys_are_refused(fault: str) -> None:
    text, message = BAD_VERIFIERS[fault]
    with pytest.raises(NoteError, match=message):
        Verifier.parse(text)
    with pytest.raises(NoteError):
        Signer.parse("PRIVATE+KEY+" + text)


def test_a_verifier_key_holds_32_bytes() -> None:
    with pytest.raises(NoteError, match="expected 32 bytes"):
        Verifier("n", b"short")


def test_private_key_reads_back_and_appears_only_in_its_dump() -> None:
    made = Signer.generate("bus.test/fresh")
    again = Signer.parse(made.dump() + "\n")
    assert again.verifier == made.verifier
    assert again.sign("text\n") == made.sign("text\n")
    assert "private" not in repr(made).lower()
    assert made.dump().split("+", 4)[4] not in repr(made)


def test_errors_hide_a_key_that_stands_in_place_of_its_name() -> None:
    dump = signer("c").dump()
    _, _, name, key_id, secret = dump.split("+", 4)
    assert "+" not in secret  # or this would be another fault
    for last in (name, "AQID", key_id, secret):
        with pytest.raises(NoteError) as refused:
            Signer.parse(f"PRIVATE+KEY+{secret}+{key_id}+{last}")
        assert not shows(str(refused.value), secret)


def shows(message: str, secret: str) -> bool:
    """Whether the message holds six characters of the secret in a row."""
    return any(secret[i : i + 6] in message for i in range(len(secret) - 5))


@given(st.data())
def test_errors_about_a_private_key_hide_it(data: st.DataObject) -> None:
    dump = SIGNER.dump()
    parts = dump.split("+", 4)
    secret = parts[4]
    scrambled = data.draw(st.permutations(parts))
    text = data.draw(st.sampled_from([dump, "+".join(scrambled), "PRIVATE+KEY+" + "+".join(scrambled[:3])]))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.sampled_from(["", "+", " ", "\n", "A", "=", "+00000000+"])) + text[at + 1 :]
    assume(text.strip() != dump)
    with pytest.raises(NoteError) as refused:
        Signer.parse(text)
    assert not shows(str(refused.value), secret)
