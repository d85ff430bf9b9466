"""Statements signed by transit on the real server: the key stays there, its versions are signing keys of their own."""

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from authority.openbao.client import OpenBaoClient
from authority.signer.interface import SignerError
from authority.signer.openbao import TransitSigner, open_transit_signer
from tests.harness.authority.memory_backends import Effects
from tests.harness.contract.issued_bundles import IssuedBundles
from tests.harness.openbao.server import DOMAIN, OpenBaoNamespace
from tidemark import note
from tidemark.bundle import Bundle
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, Known, verify

TEXT = "tidemark/bundle/v1\n{}\n"
NOW = int(time.time())


@pytest.fixture
async def place(empty_space: OpenBaoNamespace) -> OpenBaoNamespace:
    """A namespace with transit, the statement key, and the authority's policy."""
    await empty_space.client.write("sys/mounts/transit", {"type": "transit"})
    await empty_space.client.write("transit/keys/tidemark", {"type": "ed25519"})
    await empty_space.admit(empty_space.layout.policy())
    return empty_space


@pytest.fixture
async def client(place: OpenBaoNamespace) -> AsyncIterator[OpenBaoClient]:
    async with place.authority() as client:
        yield client


async def opened(client: OpenBaoClient) -> TransitSigner:
    return await open_transit_signer(client, "transit", "tidemark", DOMAIN)


async def test_statement_signed_by_transit_verifies(
    place: OpenBaoNamespace, client: OpenBaoClient, tmp_path: Path
) -> None:
    signer = await opened(client)
    (verifier,) = await signer.verifiers()
    assert verifier.name == f"{DOMAIN}/tidemark-1"
    shown = await place.client.read("transit/keys/tidemark") or {}
    assert verifier.public_key == base64.b64decode(shown["keys"]["1"]["public_key"])
    made = await (await IssuedBundles.create(tmp_path, NOW)).bundle(1)
    signed = await signer.sign(made.statement.text())
    bundle = Bundle(made.bundle.ca, bytes(signed))
    trust = Trust(DOMAIN, (verifier,), tolerance_seconds=600)
    assert verify(bundle, trust, Known(), NOW).sequence == 1
    with pytest.raises(BundleRejected, match="signature"):
        verify(made.bundle, trust, Known(), NOW)
    # The same text is signed the same way, so a repetition after a crash is no second text.
    assert await signer.sign(made.statement.text()) == signed


async def test_both_versions_of_a_rotated_key_sign(place: OpenBaoNamespace, client: OpenBaoClient) -> None:
    old = await opened(client)
    (first,) = await old.verifiers()
    await place.client.write("transit/keys/tidemark/rotate", {})
    (still,) = (await old.sign(TEXT)).signatures  # a running authority goes on as it began
    assert still.key_id == first.key_id
    both = await opened(client)
    assert [verifier.name for verifier in await both.verifiers()] == [f"{DOMAIN}/tidemark-1", f"{DOMAIN}/tidemark-2"]
    (_, second) = await both.verifiers()
    signed = await both.sign(TEXT)
    for verifier in (first, second):  # one trusted signature suffices
        assert note.verify(note.parse(bytes(signed)), [verifier])
    await place.client.write("transit/keys/tidemark/config", {"min_decryption_version": 2})
    late = await opened(client)
    assert await late.verifiers() == (second,)
    assert [signature.key_id for signature in (await late.sign(TEXT)).signatures] == [second.key_id]
    with pytest.raises(SignerError, match=r"POST transit/sign/tidemark, found 500: .*no such key version"):
        await old.sign(TEXT)


async def test_key_recreated_meanwhile_is_noticed(place: OpenBaoNamespace, client: OpenBaoClient) -> None:
    signer = await opened(client)
    await place.client.write("transit/keys/tidemark/config", {"deletion_allowed": True})
    await place.client.delete("transit/keys/tidemark")
    await place.client.write("transit/keys/tidemark", {"type": "ed25519"})
    with pytest.raises(SignerError, match=r"expected a signature by .*tidemark-1\+.*was the key replaced\? Restart"):
        await signer.sign(TEXT)


async def test_missing_key_and_key_of_another_type_are_named(place: OpenBaoNamespace, client: OpenBaoClient) -> None:
    with pytest.raises(SignerError, match=r"transit/keys/other: expected OpenBao|allow 'read' on 'transit/keys/other'"):
        await open_transit_signer(client, "transit", "other", DOMAIN)
    with pytest.raises(SignerError, match=r"transit/keys/other: expected a signing key, found none; run 'init"):
        await open_transit_signer(place.client, "transit", "other", DOMAIN)
    await place.client.write("transit/keys/other", {"type": "aes256-gcm96"})
    with pytest.raises(SignerError, match=r"transit/keys/other: expected a key of type ed25519, found 'aes256-gcm96'"):
        await open_transit_signer(place.client, "transit", "other", DOMAIN)


async def test_text_that_is_no_statement_is_not_sent(place: OpenBaoNamespace) -> None:
    effects = Effects()
    async with place.struck(effects) as client:
        with pytest.raises(SignerError, match="newline"):
            await (await opened(client)).sign("no newline at its end")
    assert effects.names == []
