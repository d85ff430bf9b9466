"""The wire formats do not change unnoticed: files of an earlier version are written and read the same."""

import json

import pytest

from tests.harness.contract import golden_files
from tests.harness.contract.ca_factory import NOW, SECOND, SIGNER, TRUST
from tidemark import note
from tidemark.bundle import Bundle, Statement
from tidemark.certificates import parse_certificates, to_pem
from tidemark.receipt import Receipt
from tidemark.trust import Trust
from tidemark.verify import Known, verify

CA_CRT = (golden_files.FOLDER / "ca.crt").read_bytes()
FILES = golden_files.files(CA_CRT)


@pytest.mark.parametrize("name", FILES)
def test_written_files_equal_the_kept_files_byte_for_byte(name: str) -> None:
    assert FILES[name] == (golden_files.FOLDER / name).read_bytes()


def test_kept_files_are_complete() -> None:
    assert {path.name for path in golden_files.FOLDER.iterdir()} == {"ca.crt", *FILES}


def kept(name: str) -> bytes:
    return (golden_files.FOLDER / name).read_bytes()


def test_kept_files_are_read_with_their_values() -> None:
    made = golden_files.statement(CA_CRT)
    assert Statement.parse(kept("statement.txt").decode()) == made
    assert Bundle.from_json(kept("bundle.json")) == Bundle(CA_CRT, kept("bundle.note"))
    assert Trust.parse(kept("trust.toml")) == golden_files.trust(CA_CRT)
    assert Receipt.from_json(kept("receipt.json")) == golden_files.receipt(made)
    assert to_pem(parse_certificates(CA_CRT)) == CA_CRT


def test_the_kept_bundle_verifies_with_the_kept_trust_file() -> None:
    result = verify(Bundle(CA_CRT, kept("bundle.note")), Trust.parse(kept("trust.toml")), Known(), NOW)
    assert result.statement == golden_files.statement(CA_CRT)
    assert result.signed_by == tuple(f"{signer.name}+{signer.verifier.hash}" for signer in (SIGNER, SECOND))


def test_the_kept_note_is_its_text_and_two_signatures() -> None:
    signed = note.parse(kept("bundle.note"))
    assert signed.text.encode() == kept("statement.txt")
    assert note.verify(signed, TRUST.keys, threshold=2) == TRUST.keys
    assert json.loads(kept("bundle.json")) == {"ca.crt": CA_CRT.decode(), "bundle.note": kept("bundle.note").decode()}
