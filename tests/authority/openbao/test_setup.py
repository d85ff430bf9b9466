"""What ``init --openbao`` makes on the real server, also after crashes, and what its policy lets the authority do."""

import time

import pytest
from cryptography import x509

from authority.openbao.control_ca import open_control_ca
from authority.openbao.errors import OpenBaoError, OpenBaoPermissionMissing
from authority.openbao.layout import OpenBaoLayout
from authority.openbao.login import Json, TokenLogin
from authority.openbao.pki import default_issuer
from authority.openbao.setup import SetupRequest, set_up
from authority.pki.keystore import KeyType
from tests.harness.authority.memory_backends import Effects, How, Killed, Strike, When
from tests.harness.openbao.server import CLOSED, DOMAIN, ROOT_TOKEN, TOLERANCE, OpenBaoNamespace, StruckClient, ask
from tidemark.certificates import is_ca, issued_by, not_after, not_before

NOW = int(time.time())

WANTED = SetupRequest(DOMAIN, KeyType.EC_P256, TOLERANCE)

YEARS = 365 * 86400

PARTS = [
    *(("pki mount", "pki"), ("pki mount", "nats_int"), ("pki mount", "control")),
    *(("transit mount", "transit"), ("kv mount", "secret")),
    *(("root CA", "pki"), ("control CA", "control")),
    *(("role", "nats_int/roles/tidemark"), ("role", "control/roles/tidemark")),
    ("signing key", "transit/keys/tidemark"),
]


async def standing(space: OpenBaoNamespace) -> dict[str, Json]:
    """Everything that was set up, in OpenBao's own words; no time that it was last looked at."""
    found: dict[str, Json] = {}
    for mount in ("pki", "nats_int", "control"):
        issuers = (await space.client.list(f"{mount}/issuers")).get("key_info") or {}
        keys = (await space.client.list(f"{mount}/keys")).get("key_info") or {}
        found[mount] = {
            "issuers": sorted(info["issuer_name"] for info in issuers.values()),
            "keys": sorted(info["key_name"] for info in keys.values()),
            "longest": (await space.client.read(f"sys/mounts/{mount}/tune") or {})["max_lease_ttl"],
            "tidy": (await space.client.read(f"{mount}/config/auto-tidy") or {})["enabled"],
        }
    for path in ("nats_int/roles/tidemark", "control/roles/tidemark"):
        found[path] = await space.client.read(path) or {}
    found["transit"] = {"type": (await space.client.read("transit/keys/tidemark") or {})["type"]}
    found["secret"] = (await space.client.read("sys/mounts/secret/tune") or {})["options"]
    return found


async def test_repeated_set_up_keeps_what_exists(empty_space: OpenBaoNamespace) -> None:
    client, layout = empty_space.client, empty_space.layout
    made = await set_up(client, layout, WANTED, NOW)
    assert [(part.name, part.path, part.made) for part in made] == [(*part, True) for part in PARTS]
    before, roots = await standing(empty_space), [await default_issuer(client, mount) for mount in ("pki", "control")]
    again = await set_up(client, layout, WANTED, NOW + 9)
    assert [(part.name, part.path, part.made) for part in again] == [(*part, False) for part in PARTS]
    assert await standing(empty_space) == before
    assert [await default_issuer(client, mount) for mount in ("pki", "control")] == roots
    assert (before["pki"]["issuers"], before["control"]["issuers"]) == (["root"], ["control"])
    assert (before["nats_int"]["issuers"], before["nats_int"]["keys"]) == ([], [])
    assert [before[mount]["tidy"] for mount in ("pki", "nats_int", "control")] == [True] * 3
    assert before["nats_int/roles/tidemark"]["not_before_duration"] == TOLERANCE
    assert before["secret"] == {"version": "2"}


async def test_root_and_control_ca_have_the_documented_form(space: OpenBaoNamespace) -> None:
    for mount, name, path_length in (("pki", "root", 1), ("control", "control", 0)):
        ca = await default_issuer(space.client, mount)
        assert ca is not None
        assert is_ca(ca)
        assert issued_by(ca, ca)
        assert [attribute.value for attribute in ca.subject][:2] == [DOMAIN, name]
        basic = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert basic.path_length == path_length
        assert not_after(ca) > NOW + 19 * YEARS
        assert not_before(ca) < NOW - 3600


async def test_role_follows_the_configuration(space: OpenBaoNamespace) -> None:
    await set_up(space.client, space.layout, SetupRequest(DOMAIN, KeyType.EC_P256, 5), NOW)
    role = await space.client.read("nats_int/roles/tidemark") or {}
    assert role["not_before_duration"] == 5


async def test_set_up_uses_configured_mounts_and_names(empty_space: OpenBaoNamespace) -> None:
    layout = OpenBaoLayout("a/pki", "a/int", "a/control", "a/transit", "a/kv", "bundles", "leaf", "statements")
    made = await set_up(empty_space.client, layout, WANTED, NOW)
    assert {part.path for part in made} == {
        *("a/pki", "a/int", "a/control", "a/transit", "a/kv"),
        *("a/int/roles/leaf", "a/control/roles/leaf", "a/transit/keys/statements"),
    }
    await empty_space.admit(layout.policy())
    async with empty_space.authority() as client:
        await client.write("a/kv/data/bundles/journal/1", {"data": {}})
        assert (await open_control_ca(client, layout)).certificate is not None


async def test_next_run_completes_a_crashed_set_up(empty_space: OpenBaoNamespace) -> None:
    async def run_in(space: OpenBaoNamespace, effects: Effects) -> None:
        async with StruckClient(space.access(TokenLogin(ROOT_TOKEN)), effects) as client:
            await set_up(client, space.layout, WANTED, NOW)

    effects = Effects()
    await run_in(empty_space, effects)
    expected = await standing(empty_space)
    for number, name in enumerate(effects.names):
        space = await OpenBaoNamespace.create(empty_space.server)
        async with space.client:
            with pytest.raises(Killed):
                await run_in(space, Effects(Strike(number, When.AFTER, How.KILL)))
            await set_up(space.client, space.layout, WANTED, NOW)
            assert await standing(space) == expected, f"killed after {name}"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("sys/mounts/pki", {"type": "transit"}, "mount pki: expected type pki, found transit; configure another name"),
        ("sys/mounts/transit", {"type": "pki"}, "mount transit: expected type transit, found pki; configure another"),
        ("sys/mounts/secret", {"type": "kv"}, "mount secret: expected kv version 2, found another; configure another"),
    ],
)
async def test_mount_of_another_type_is_refused(
    empty_space: OpenBaoNamespace, path: str, body: Json, message: str
) -> None:
    await empty_space.client.write(path, body)
    with pytest.raises(OpenBaoError, match=message):
        await set_up(empty_space.client, empty_space.layout, WANTED, NOW)


async def test_journal_mount_with_expiry_is_refused(empty_space: OpenBaoNamespace) -> None:
    await empty_space.client.write("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    await empty_space.client.write("secret/config", {"delete_version_after": "720h"})
    with pytest.raises(
        OpenBaoError, match=r"mount secret: expected secrets to stay .*, found delete_version_after 720h"
    ):
        await set_up(empty_space.client, empty_space.layout, WANTED, NOW)


async def test_signing_key_of_another_type_is_refused(empty_space: OpenBaoNamespace) -> None:
    await empty_space.client.write("sys/mounts/transit", {"type": "transit"})
    await empty_space.client.write("transit/keys/tidemark", {"type": "aes256-gcm96"})
    with pytest.raises(OpenBaoError, match="expected a key of type ed25519, found aes256-gcm96; configure another"):
        await set_up(empty_space.client, empty_space.layout, WANTED, NOW)


async def test_roots_of_another_trust_domain_are_refused(space: OpenBaoNamespace) -> None:
    with pytest.raises(OpenBaoError, match=r"mount pki: expected the CA of trust domain 'other', found .*bus\.example"):
        await set_up(space.client, space.layout, SetupRequest("other", KeyType.EC_P256, TOLERANCE), NOW)


async def test_policy_allows_nothing_else(space: OpenBaoNamespace) -> None:
    async with space.authority() as client:
        for method, path, body in CLOSED:
            with pytest.raises(OpenBaoPermissionMissing) as caught:
                await ask(client, method, path, body)
            assert caught.value.path == path
