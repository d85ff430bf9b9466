"""The embedded signer: real keys in real files."""

from pathlib import Path

import pytest

from authority.issuer.embedded import create_root
from authority.pki.keystore import KeyType
from authority.signer.embedded import create_key, open_signer
from authority.signer.interface import SignerError
from tidemark import note

DOMAIN = "bus.example.com"


async def test_statement_is_signed_by_every_key(tmp_path: Path) -> None:
    first = create_key(tmp_path, None)
    assert first == tmp_path / "signer/a.key"
    assert create_key(tmp_path, None) is None
    one = open_signer(tmp_path, DOMAIN, None)
    assert [verifier.name for verifier in await one.verifiers()] == [f"{DOMAIN}/a"]
    create_key(tmp_path / "other", None)
    (tmp_path / "other/signer/a.key").rename(tmp_path / "signer/b.key")
    two = open_signer(tmp_path, DOMAIN, None)
    signed = await two.sign("tidemark\n")
    verifiers = await two.verifiers()
    assert [verifier.name for verifier in verifiers] == [f"{DOMAIN}/a", f"{DOMAIN}/b"]
    assert note.verify(note.parse(bytes(signed)), verifiers, threshold=2) == verifiers
    assert await two.sign("tidemark\n") == signed
    with pytest.raises(SignerError, match="expected it to end in a newline"):
        await two.sign("tidemark")


def test_signing_key_of_another_type_is_refused(tmp_path: Path) -> None:
    create_root(tmp_path, DOMAIN, KeyType.EC_P256, 1_800_000_000, None)
    (tmp_path / "signer").mkdir()
    (tmp_path / "roots/1/ca.key").rename(tmp_path / "signer/a.key")
    with pytest.raises(SignerError, match=r"signer/a\.key: expected an Ed25519 key, found"):
        open_signer(tmp_path, DOMAIN, None)


def test_missing_key_names_init(tmp_path: Path) -> None:
    with pytest.raises(SignerError, match=r"signer: expected a signing key, found none; run 'init' first"):
        open_signer(tmp_path, DOMAIN, None)
