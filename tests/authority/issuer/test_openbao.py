"""The issuer in OpenBao, with the least policy on the real server: what it makes, and what a crash leaves behind."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from authority.issuer.interface import CaRequest, IssuerError, LeafRequest
from authority.issuer.openbao import OpenBaoIssuer
from authority.openbao.client import OpenBaoClient
from authority.openbao.login import Json
from authority.pki.keystore import KeyType
from tests.harness.authority.memory_backends import Effects, How, Killed, Strike, When
from tests.harness.openbao.server import DOMAIN, TOLERANCE, OpenBaoNamespace
from tests.harness.pki.issued_form import assert_ca_form, assert_leaf_form
from tidemark.certificates import issued_by, key_identifier, leaf_issuer, not_after, not_before, parse_leaf

NOW = int(time.time())  # OpenBao goes by the real clock; other tests may run for minutes before these
REQUEST = CaRequest("epoch-7-3", DOMAIN, epoch=7, not_before=NOW - TOLERANCE, not_after=NOW + 7207)
LATER = replace(REQUEST, ca_id="epoch-8-4", epoch=8)


@pytest.fixture
def wanted() -> LeafRequest:
    """Begins now, as the role backdates by the tolerance alone."""
    now = int(time.time())
    names, addresses = ("nats-0.example.com", "*.nats.svc"), ("127.0.0.1", "::1")
    return LeafRequest("nats-0", names, addresses, now - TOLERANCE, now + 3611)


@pytest.fixture
async def client(space: OpenBaoNamespace) -> AsyncIterator[OpenBaoClient]:
    async with space.authority() as client:
        yield client


@pytest.fixture
def issuer(space: OpenBaoNamespace, client: OpenBaoClient) -> OpenBaoIssuer:
    return space.issuer(client)


async def test_ca_has_the_documented_form(issuer: OpenBaoIssuer) -> None:
    (root,) = await issuer.roots()
    ca = await issuer.issue_ca(REQUEST)
    assert_ca_form(ca, root, REQUEST)
    assert abs(not_before(ca) - REQUEST.not_before) <= TOLERANCE
    assert [attribute.value for attribute in root.subject] == [DOMAIN, "root", key_identifier(root)[:16]]


async def test_repeated_ca_id_returns_the_same_ca_after_a_restart(
    issuer: OpenBaoIssuer, space: OpenBaoNamespace
) -> None:
    ca = await issuer.issue_ca(REQUEST)
    later = replace(REQUEST, not_before=REQUEST.not_before + 5)
    assert await issuer.issue_ca(later) == ca
    async with space.authority() as other:
        assert await space.issuer(other).issue_ca(later) == ca
    assert set((await issuer.holdings()).cas) == {"epoch-7-3"}


@pytest.mark.parametrize(
    "asked", [replace(REQUEST, epoch=8), replace(REQUEST, not_after=NOW + 9000), replace(REQUEST, trust_domain="other")]
)
async def test_ca_id_with_another_request_makes_another_ca(
    issuer: OpenBaoIssuer, space: OpenBaoNamespace, asked: CaRequest
) -> None:
    before = await issuer.issue_ca(REQUEST)
    after = await issuer.issue_ca(asked)
    assert key_identifier(after) != key_identifier(before)
    assert not_after(after) == asked.not_after
    assert await issuer.issue_ca(asked) == after
    assert (await space.names("keys"), await space.names("issuers")) == ({"epoch-7-3"}, {"epoch-7-3"})


async def test_default_issuer_changes_only_at_activation(issuer: OpenBaoIssuer, space: OpenBaoNamespace) -> None:
    await issuer.issue_ca(REQUEST)
    await issuer.activate(REQUEST.ca_id)
    await issuer.issue_ca(LATER)
    assert await space.default_name() == "epoch-7-3"
    await issuer.activate(LATER.ca_id)
    assert await space.default_name() == "epoch-8-4"
    await issuer.issue_ca(replace(REQUEST, ca_id="epoch-9-5"))
    assert await space.default_name() == "epoch-8-4"


async def test_leaf_serves_and_connects(issuer: OpenBaoIssuer, wanted: LeafRequest) -> None:
    (root,) = await issuer.roots()
    ca = await issuer.issue_ca(REQUEST)
    issued = await issuer.issue_leaf(REQUEST.ca_id, wanted)
    leaf = assert_leaf_form(issued, ca, root, wanted, int(time.time()))
    assert leaf_issuer(leaf, [ca], (), int(time.time())) == ca
    assert abs(not_before(leaf.certificate) - wanted.not_before) <= TOLERANCE
    assert [(name.oid._name, name.value) for name in leaf.certificate.subject] == [("commonName", "nats-0")]
    names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(names.get_values_for_type(x509.DNSName)) == wanted.dns_names
    assert tuple(map(str, names.get_values_for_type(x509.IPAddress))) == wanted.ip_addresses
    assert (await issuer.issue_leaf(REQUEST.ca_id, wanted)).key_pem != issued.key_pem


async def test_leaf_is_signed_by_the_named_ca_not_by_the_default(issuer: OpenBaoIssuer, wanted: LeafRequest) -> None:
    await issuer.issue_ca(REQUEST)
    await issuer.activate(REQUEST.ca_id)
    other = await issuer.issue_ca(LATER)
    issued = await issuer.issue_leaf(LATER.ca_id, wanted)
    assert issued_by(parse_leaf(issued.certificate_pem, issued.key_pem).certificate, other)


async def test_leaf_that_would_outlive_its_ca_is_refused(
    issuer: OpenBaoIssuer, space: OpenBaoNamespace, wanted: LeafRequest
) -> None:
    ca = await issuer.issue_ca(REQUEST)
    await issuer.issue_leaf(REQUEST.ca_id, replace(wanted, not_after=REQUEST.not_after))
    with pytest.raises(IssuerError, match=r"leaf nats-0: expected it to end by .*, as its CA epoch-7-3 does, found"):
        await issuer.issue_leaf(REQUEST.ca_id, replace(wanted, not_after=REQUEST.not_after + 1))
    # Nor does one that cert-manager asks the default issuer for.
    answer = await space.client.write("nats_int/issue/tidemark", {"common_name": "app", "ttl": "24h", "key_type": "ec"})
    leaf = x509.load_pem_x509_certificate(str(answer["certificate"]).encode())
    assert not_after(leaf) == not_after(ca)
    assert issued_by(leaf, ca)


async def test_leaf_with_names_that_no_certificate_can_have_is_refused(
    issuer: OpenBaoIssuer, wanted: LeafRequest
) -> None:
    await issuer.issue_ca(REQUEST)
    with pytest.raises(IssuerError, match="leaf nats-0: expected names for a certificate, found"):
        await issuer.issue_leaf(REQUEST.ca_id, replace(wanted, dns_names=("ünicode.example.com",)))


async def test_missing_ca_is_named(issuer: OpenBaoIssuer, wanted: LeafRequest) -> None:
    with pytest.raises(IssuerError, match=r"expected the CA epoch-9-9, found none"):
        await issuer.issue_leaf("epoch-9-9", wanted)
    with pytest.raises(IssuerError, match=r"expected the CA epoch-9-9, found none"):
        await issuer.activate("epoch-9-9")


async def test_delete_removes_issuer_and_key_and_may_be_repeated(
    issuer: OpenBaoIssuer, space: OpenBaoNamespace
) -> None:
    await issuer.issue_ca(REQUEST)
    await issuer.activate(REQUEST.ca_id)
    await issuer.issue_ca(LATER)
    await issuer.delete([REQUEST.ca_id, "epoch-1-1"])
    await issuer.delete([REQUEST.ca_id])
    assert (await space.names("keys"), await space.names("issuers")) == ({"epoch-8-4"}, {"epoch-8-4"})
    await issuer.activate(LATER.ca_id)
    assert await space.default_name() == "epoch-8-4"


@pytest.mark.parametrize("ca_id", ["../roots", "", ".epoch", "epoch/1", "Epoch-1-1", "epoch-1", "root"])
async def test_ca_id_that_is_a_path_is_refused(issuer: OpenBaoIssuer, ca_id: str) -> None:
    with pytest.raises(IssuerError, match="expected epoch-<epoch>-<sequence>"):
        await issuer.issue_ca(replace(REQUEST, ca_id=ca_id))
    with pytest.raises(IssuerError, match="expected epoch-<epoch>-<sequence>"):
        await issuer.delete([ca_id])


async def test_ca_that_would_outlive_the_root_is_refused(issuer: OpenBaoIssuer) -> None:
    (root,) = await issuer.roots()
    with pytest.raises(
        IssuerError, match=r"CA epoch-7-3: expected it to end by .*, as its root does, found .*new root"
    ):
        await issuer.issue_ca(replace(REQUEST, not_after=not_after(root) + 1))
    assert (await issuer.holdings()).cas == {}


async def test_issuer_in_the_root_mount_that_is_no_root_is_not_trusted(
    issuer: OpenBaoIssuer, space: OpenBaoNamespace
) -> None:
    (root,) = await issuer.roots()
    request = await space.client.write(
        "pki/intermediate/generate/internal", {"common_name": "another", "key_type": "ec"}
    )
    signed = await space.client.write("pki/issuer/default/sign-intermediate", {"csr": request["csr"], "ttl": "1h"})
    await space.client.write("pki/intermediate/set-signed", {"certificate": signed["certificate"]})
    assert await issuer.roots() == (root,)


async def test_default_root_signs_and_both_roots_are_trusted(issuer: OpenBaoIssuer, space: OpenBaoNamespace) -> None:
    (first,) = await issuer.roots()
    body = {"common_name": "root", "organization": [DOMAIN], "issuer_name": "root-2", "ttl": "8760h", "key_type": "ec"}
    await space.client.write("pki/root/generate/internal", body)
    assert (await issuer.roots())[0] == first
    await space.client.write("pki/config/issuers", {"default": "root-2"})
    newest, oldest = await issuer.roots()
    assert oldest == first
    assert issued_by(await issuer.issue_ca(REQUEST), newest)


async def test_configured_rsa_keys_are_used(space: OpenBaoNamespace, client: OpenBaoClient) -> None:
    issuer = OpenBaoIssuer(client, space.layout, KeyType.RSA_4096, tolerance_seconds=TOLERANCE, clock=time.time)
    key = (await issuer.issue_ca(REQUEST)).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 4096


async def test_nothing_is_signed_or_deleted_while_the_clocks_differ(
    space: OpenBaoNamespace, client: OpenBaoClient, wanted: LeafRequest
) -> None:
    right = space.issuer(client)
    await right.issue_ca(REQUEST)
    for off in (TOLERANCE + 5, -TOLERANCE - 5):

        def clock(off: int = off) -> float:
            return time.time() + off

        wrong = space.issuer(client, clock)
        for act in (wrong.issue_ca(LATER), wrong.issue_leaf(REQUEST.ca_id, wanted), wrong.delete([REQUEST.ca_id])):
            with pytest.raises(IssuerError, match=rf"clock: expected OpenBao's within {TOLERANCE} s of ours"):
                await act
        assert await wrong.issue_ca(REQUEST) is not None  # it stands: nothing has to be signed
    assert set((await right.holdings()).cas) == {"epoch-7-3"}


def struck(space: OpenBaoNamespace, step: int, when: When) -> OpenBaoClient:
    """The client of a process that is killed at its n-th change of OpenBao."""
    return space.struck(Effects(Strike(step, when, How.KILL)))


async def test_crash_while_making_a_ca_leaves_no_orphan(space: OpenBaoNamespace, wanted: LeafRequest) -> None:
    effects = Effects()
    async with space.struck(effects) as undisturbed:
        await space.issuer(undisturbed).issue_ca(REQUEST)
        await space.issuer(undisturbed).activate(REQUEST.ca_id)
    steps = [name.rsplit("/", 1)[-1] for name in effects.names]
    assert steps[:4] == ["internal", "existing", "sign-intermediate", "set-signed"]
    number = 10
    for step in range(5):
        for when in When:
            number += 1
            asked = replace(REQUEST, ca_id=f"epoch-{number}-{number}", epoch=number)
            async with struck(space, step, when) as dying:
                with pytest.raises(Killed):
                    await space.issuer(dying).issue_ca(asked)
            async with space.authority() as client:
                ca = await space.issuer(client).issue_ca(asked)
                assert asked.is_met_by(ca)
                leaf = await space.issuer(client).issue_leaf(asked.ca_id, wanted)
                assert issued_by(parse_leaf(leaf.certificate_pem, leaf.key_pem).certificate, ca)
            assert await space.names("keys") == await space.names("issuers") == {REQUEST.ca_id, asked.ca_id}
            listed = await space.client.list("nats_int/issuers")
            assert len(listed["keys"]) == 2
            assert await space.default_name() == REQUEST.ca_id
            await delete_with_a_crash(space, asked.ca_id, when)


async def delete_with_a_crash(space: OpenBaoNamespace, ca_id: str, when: When) -> None:
    """Whatever is left of a CA is known by its ca_id until the last of it is gone."""
    async with struck(space, 1, when) as dying:
        with pytest.raises(Killed):
            await space.issuer(dying).delete([ca_id])
    async with space.authority() as client:
        assert (ca_id in (await space.issuer(client).holdings()).cas) is (when is When.BEFORE)
        await space.issuer(client).delete([ca_id])
    assert await space.names("keys") == await space.names("issuers") == {REQUEST.ca_id}


@pytest.mark.parametrize("step", range(4))
async def test_remains_of_a_crash_are_retired(space: OpenBaoNamespace, step: int) -> None:
    async with struck(space, step, When.AFTER) as dying:
        with pytest.raises(Killed):
            await space.issuer(dying).issue_ca(REQUEST)
    async with space.authority() as client:
        issuer = space.issuer(client)
        assert set((await issuer.holdings()).cas) == {REQUEST.ca_id}
        await issuer.delete([REQUEST.ca_id])
    assert (await space.names("keys"), await space.names("issuers")) == (set(), set())


async def test_foreign_objects_in_the_mount_are_left_alone(space: OpenBaoNamespace, issuer: OpenBaoIssuer) -> None:
    """It may have been in use before, and these may be the only keys of their kind."""
    others = {"nats-intermediate", "epoch-12"}
    for name in sorted(others):
        body = {"common_name": name, "issuer_name": name, "key_name": name, "key_type": "ec"}
        await space.client.write("nats_int/root/generate/internal", body)
    await issuer.issue_ca(REQUEST)
    assert set((await issuer.holdings()).cas) == {REQUEST.ca_id}  # what is there and in no journal is deleted
    for name in others:
        with pytest.raises(IssuerError, match="expected epoch-<epoch>-<sequence>"):
            await issuer.delete([name])
    assert await space.names("keys") == await space.names("issuers") == {*others, REQUEST.ca_id}


async def test_two_authorities_that_make_one_ca_get_the_same(space: OpenBaoNamespace) -> None:
    async with space.authority() as one, space.authority() as two:
        issuers = [space.issuer(one), space.issuer(two)]
        results = await asyncio.gather(*(issuer.issue_ca(REQUEST) for issuer in issuers), return_exceptions=True)
        assert all(isinstance(result, x509.Certificate | IssuerError) for result in results)
        first, second = [await issuer.issue_ca(REQUEST) for issuer in issuers]
        assert first == second
        assert {result for result in results if isinstance(result, x509.Certificate)} <= {first}
        assert await space.names("keys") == {REQUEST.ca_id}
        await issuers[0].delete([REQUEST.ca_id])
    assert (await space.names("keys"), await space.names("issuers")) == (set(), set())


class OtherDates(OpenBaoClient):
    """Stands for an OpenBao that signs other dates than it was asked for, so many times."""

    times: int
    signed = 0

    async def write(self, path: str, body: Json, *, repeatable: bool = True) -> Json:
        if path.endswith(("/sign-intermediate", "/sign/tidemark")):
            self.signed += 1
            if self.signed <= self.times:
                body = body | {"not_after": "2040-01-01T00:00:00Z"}
        return await super().write(path, body, repeatable=repeatable)


@pytest.mark.parametrize(("times", "signed"), [(0, 1), (2, 3)])
async def test_ca_signed_with_other_dates_is_signed_again(space: OpenBaoNamespace, times: int, signed: int) -> None:
    assert space.login is not None
    async with OtherDates(space.access(space.login)) as client:
        client.times = times
        assert not_after(await space.issuer(client).issue_ca(REQUEST)) == REQUEST.not_after
        assert client.signed == signed
    assert len((await space.client.list("nats_int/issuers"))["keys"]) == 1


async def test_ca_always_signed_with_other_dates_is_refused(space: OpenBaoNamespace) -> None:
    assert space.login is not None
    async with OtherDates(space.access(space.login)) as client:
        client.times = 99
        with pytest.raises(IssuerError, match=r"found another: NotAfter 2040-01-01T00:00:00Z, not "):
            await space.issuer(client).issue_ca(REQUEST)
    assert await space.names("issuers") == set()


async def test_role_with_another_backdating_is_named(
    space: OpenBaoNamespace, issuer: OpenBaoIssuer, wanted: LeafRequest
) -> None:
    await issuer.issue_ca(REQUEST)
    role = await space.client.read("nats_int/roles/tidemark") or {}
    await space.client.write("nats_int/roles/tidemark", role | {"not_before_duration": "2h"})
    with pytest.raises(IssuerError, match=r"NotBefore .*, not within 30 s of .*'init --openbao' brings the role up"):
        await issuer.issue_leaf(REQUEST.ca_id, wanted)


async def test_missing_set_up_names_init(empty_space: OpenBaoNamespace) -> None:
    issuer = empty_space.issuer(empty_space.client)
    with pytest.raises(IssuerError, match=r"no handler for route"):
        await issuer.roots()
    await empty_space.client.write("sys/mounts/pki", {"type": "pki"})
    with pytest.raises(IssuerError, match=r"pki: expected a root as its default issuer, found none; run 'init"):
        await issuer.roots()
