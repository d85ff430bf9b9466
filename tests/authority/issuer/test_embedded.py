"""The embedded issuer: real keys in real files, judged by another library's chain verification."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from authority.issuer.embedded import EmbeddedIssuer, create_root
from authority.issuer.interface import CaRequest, IssuerError, LeafRequest
from authority.pki.keystore import KeyType
from authority.signer.embedded import create_key, open_signer
from tests.harness.pki.issued_form import assert_ca_form, assert_leaf_form
from tidemark.certificates import fingerprint, is_ca, issued_by, not_after, not_before, parse_leaf

NOW = 1_800_000_000
DOMAIN = "bus.example.com"
REQUEST = CaRequest("epoch-7-3", DOMAIN, epoch=7, not_before=NOW - 600, not_after=NOW + 7200)
LEAF = LeafRequest("nats-0", ("nats-0.example.com",), ("127.0.0.1", "::1"), NOW - 600, NOW + 3600)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    create_root(tmp_path / "state", DOMAIN, KeyType.EC_P256, NOW, None)
    return tmp_path / "state"


@pytest.fixture
def issuer(state: Path) -> EmbeddedIssuer:
    return EmbeddedIssuer(state, KeyType.EC_P256, None)


def modes(directory: Path) -> set[tuple[str, int]]:
    return {(path.name, stat.S_IMODE(path.stat().st_mode)) for path in directory.rglob("*")}


async def test_ca_has_the_documented_form(issuer: EmbeddedIssuer) -> None:
    (root,) = await issuer.roots()
    ca = await issuer.issue_ca(REQUEST)
    assert_ca_form(ca, root, REQUEST)
    assert not_before(ca) == REQUEST.not_before


async def test_repeated_ca_id_returns_the_same_ca_after_a_restart(issuer: EmbeddedIssuer, state: Path) -> None:
    ca = await issuer.issue_ca(REQUEST)
    later = replace(REQUEST, not_before=REQUEST.not_before + 5)
    assert await issuer.issue_ca(later) == ca
    assert await EmbeddedIssuer(state, KeyType.EC_P256, None).issue_ca(later) == ca
    assert set((await issuer.holdings()).cas) == {"epoch-7-3"}


@pytest.mark.parametrize(
    "asked", [replace(REQUEST, epoch=8), replace(REQUEST, not_after=NOW + 9000), replace(REQUEST, trust_domain="other")]
)
async def test_ca_id_with_another_request_makes_another_ca(issuer: EmbeddedIssuer, asked: CaRequest) -> None:
    before = await issuer.issue_ca(REQUEST)
    after = await issuer.issue_ca(asked)
    assert after != before
    assert not_after(after) == asked.not_after
    assert await issuer.issue_ca(asked) == after
    assert set((await issuer.holdings()).cas) == {"epoch-7-3"}


async def test_two_cas_of_one_epoch_have_different_names(issuer: EmbeddedIssuer) -> None:
    first = await issuer.issue_ca(REQUEST)
    second = await issuer.issue_ca(replace(REQUEST, ca_id="epoch-7-4"))
    assert first.subject != second.subject


async def test_ca_that_would_outlive_the_root_is_refused(issuer: EmbeddedIssuer) -> None:
    (root,) = await issuer.roots()
    with pytest.raises(
        IssuerError, match=r"CA epoch-7-3: expected it to end by .*, as its root does, found .*new root"
    ):
        await issuer.issue_ca(replace(REQUEST, not_after=not_after(root) + 1))
    assert (await issuer.holdings()).cas == {}


async def test_leaf_serves_and_connects(issuer: EmbeddedIssuer) -> None:
    (root,) = await issuer.roots()
    ca = await issuer.issue_ca(REQUEST)
    issued = await issuer.issue_leaf(REQUEST.ca_id, LEAF)
    leaf = assert_leaf_form(issued, ca, root, LEAF, NOW)
    assert not_before(leaf.certificate) == LEAF.not_before
    again = await issuer.issue_leaf(REQUEST.ca_id, LEAF)
    assert again.key_pem != issued.key_pem


async def test_leaf_that_would_outlive_its_ca_is_refused(issuer: EmbeddedIssuer) -> None:
    await issuer.issue_ca(REQUEST)
    await issuer.issue_leaf(REQUEST.ca_id, replace(LEAF, not_after=REQUEST.not_after))
    with pytest.raises(IssuerError, match=r"leaf nats-0: expected it to end by .*, as its CA epoch-7-3 does, found"):
        await issuer.issue_leaf(REQUEST.ca_id, replace(LEAF, not_after=REQUEST.not_after + 1))


async def test_missing_ca_is_named(issuer: EmbeddedIssuer) -> None:
    with pytest.raises(IssuerError, match=r"expected the CA epoch-9-9, found none"):
        await issuer.issue_leaf("epoch-9-9", LEAF)
    with pytest.raises(IssuerError, match=r"expected the CA epoch-9-9, found none"):
        await issuer.activate("epoch-9-9")


async def test_delete_may_be_repeated(issuer: EmbeddedIssuer, state: Path) -> None:
    await issuer.issue_ca(REQUEST)
    await issuer.activate(REQUEST.ca_id)
    await issuer.delete([REQUEST.ca_id, "epoch-1-1"])
    await issuer.delete([REQUEST.ca_id])
    assert (await issuer.holdings()).cas == {}
    assert list((state / "issuer").iterdir()) == []


@pytest.mark.parametrize("ca_id", ["../roots", "", ".epoch", "epoch/1", "Epoch-1-1", "epoch-1", "root"])
async def test_ca_id_that_is_a_path_is_refused(issuer: EmbeddedIssuer, ca_id: str) -> None:
    with pytest.raises(IssuerError, match="expected epoch-<epoch>-<sequence>"):
        await issuer.issue_ca(replace(REQUEST, ca_id=ca_id))
    with pytest.raises(IssuerError, match="expected epoch-<epoch>-<sequence>"):
        await issuer.delete([ca_id])


async def test_only_the_owner_can_read_keys(issuer: EmbeddedIssuer, state: Path) -> None:
    previous = os.umask(0)
    try:
        await issuer.issue_ca(REQUEST)
    finally:
        os.umask(previous)
    assert modes(state / "issuer") == {("epoch-7-3", 0o700), ("ca.crt", 0o600), ("ca.key", 0o600)}
    assert modes(state / "roots") == {("1", 0o700), ("ca.crt", 0o600), ("ca.key", 0o600)}


async def test_half_made_ca_does_not_count_and_is_removed(issuer: EmbeddedIssuer, state: Path) -> None:
    half = state / "issuer" / ".epoch-7-3.0badcafe.tmp"
    half.mkdir()
    (half / "ca.key").write_text("half a key")
    assert (await issuer.holdings()).cas == {}
    assert not half.exists()
    ca = await issuer.issue_ca(REQUEST)
    assert is_ca(ca)


async def test_ca_with_the_key_of_another_is_refused(issuer: EmbeddedIssuer, state: Path) -> None:
    await issuer.issue_ca(REQUEST)
    await issuer.issue_ca(replace(REQUEST, ca_id="epoch-7-4"))
    (state / "issuer/epoch-7-4/ca.key").replace(state / "issuer/epoch-7-3/ca.key")
    with pytest.raises(IssuerError, match=r"epoch-7-3/ca\.key: expected the key of ca\.crt beside it, found another"):
        await issuer.issue_leaf("epoch-7-3", LEAF)


async def test_garbled_key_is_named_and_not_shown(issuer: EmbeddedIssuer, state: Path) -> None:
    await issuer.issue_ca(REQUEST)
    (state / "issuer/epoch-7-3/ca.key").write_text("-----BEGIN PRIVATE KEY-----\nc2VzYW1l\n-----END PRIVATE KEY-----\n")
    with pytest.raises(IssuerError, match=r"ca\.key: expected a private key in PEM, found none") as caught:
        await issuer.issue_leaf("epoch-7-3", LEAF)
    assert "c2VzYW1l" not in str(caught.value)


async def test_missing_state_names_init(tmp_path: Path) -> None:
    issuer = EmbeddedIssuer(tmp_path, KeyType.EC_P256, None)
    with pytest.raises(IssuerError, match=r"roots: expected a root, found none; run 'init' first"):
        await issuer.roots()
    with pytest.raises(IssuerError, match=r"issuer: expected a readable directory, found No such file"):
        await issuer.holdings()


async def test_passphrase_encrypts_every_key_at_rest(tmp_path: Path) -> None:
    create_root(tmp_path, DOMAIN, KeyType.EC_P256, NOW, b"sesame")
    create_key(tmp_path, b"sesame")
    issuer = EmbeddedIssuer(tmp_path, KeyType.EC_P256, b"sesame")
    await issuer.issue_ca(REQUEST)
    for key in ("roots/1/ca.key", "issuer/epoch-7-3/ca.key", "signer/a.key"):
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in (tmp_path / key).read_bytes()
    issued = await issuer.issue_leaf(REQUEST.ca_id, LEAF)
    serialization.load_pem_private_key(issued.key_pem, None)  # a workload's own key it can read
    await open_signer(tmp_path, DOMAIN, b"sesame").sign("a\n")
    with pytest.raises(IssuerError, match="expected a private key in PEM that the passphrase given opens, found none"):
        await EmbeddedIssuer(tmp_path, KeyType.EC_P256, b"wrong").roots()
    with pytest.raises(
        IssuerError, match="expected a key that is not encrypted, found an encrypted key, and no passphrase"
    ):
        await EmbeddedIssuer(tmp_path, KeyType.EC_P256, None).roots()


async def test_passphrase_for_unencrypted_keys_is_refused(state: Path) -> None:
    with pytest.raises(
        IssuerError, match="expected a key encrypted with the passphrase given, found a key that is not encrypted"
    ):
        await EmbeddedIssuer(state, KeyType.EC_P256, b"sesame").roots()


def test_second_create_keeps_the_first_root(state: Path) -> None:
    before = (state / "roots/1/ca.crt").read_bytes()
    assert create_root(state, DOMAIN, KeyType.EC_P256, NOW, None) is None
    assert (state / "roots/1/ca.crt").read_bytes() == before


async def test_newest_of_two_roots_signs(issuer: EmbeddedIssuer, state: Path, tmp_path: Path) -> None:
    create_root(tmp_path / "other", DOMAIN, KeyType.EC_P256, NOW, None)
    (tmp_path / "other/roots/1").rename(state / "roots/10")
    newest, oldest = await issuer.roots()
    ca = await issuer.issue_ca(REQUEST)
    assert issued_by(ca, newest)
    assert not issued_by(ca, oldest)


async def test_configured_rsa_keys_are_used(tmp_path: Path) -> None:
    create_root(tmp_path, DOMAIN, KeyType.EC_P256, NOW, None)
    ca = await EmbeddedIssuer(tmp_path, KeyType.RSA_4096, None).issue_ca(REQUEST)
    key = ca.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 4096
    issued = await EmbeddedIssuer(tmp_path, KeyType.RSA_4096, None).issue_leaf(REQUEST.ca_id, LEAF)
    assert issued_by(parse_leaf(issued.certificate_pem, issued.key_pem).certificate, ca)


async def test_roots_made_apart_differ_in_name_and_fingerprint(tmp_path: Path) -> None:
    create_root(tmp_path / "one", DOMAIN, KeyType.EC_P256, NOW, None)
    create_root(tmp_path / "two", DOMAIN, KeyType.EC_P256, NOW, None)
    (one,) = await EmbeddedIssuer(tmp_path / "one", KeyType.EC_P256, None).roots()
    (two,) = await EmbeddedIssuer(tmp_path / "two", KeyType.EC_P256, None).roots()
    assert one.subject != two.subject
    assert fingerprint(one) != fingerprint(two)
