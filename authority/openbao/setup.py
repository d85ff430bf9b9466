"""Setting OpenBao up for an authority: mounts, roots, roles and the statement key (``init --openbao``).

It needs an operator's token; the authority itself runs with ``OpenBaoLayout.policy`` alone. It may be repeated, also
after a crash at any point: what exists is kept (roles are brought up to date), what is missing is made.
"""

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoError
from authority.openbao.layout import OpenBaoLayout
from authority.openbao.login import Json
from authority.openbao.pki import KEY_PARAMETERS, default_issuer
from authority.pki.keystore import KeyType
from authority.pki.lifetimes import BACKDATED_SECONDS, ROOT_SECONDS, SERVER_SECONDS
from tidemark.certificates import Certificate
from tidemark.strict_json import format_instant

_LONGEST = "175200h"  # 20 years: what a mount may sign at most

_TIDY: Json = {"enabled": True, "tidy_cert_store": True, "interval_duration": "12h", "safety_buffer": "72h"}
"""Certificates that a mount signed are forgotten once they have expired."""


@dataclass(frozen=True, slots=True)
class ProvisionedObject:
    """An object of the set-up."""

    name: str
    path: str
    made: bool
    """False where it existed already."""


@dataclass(frozen=True, slots=True)
class SetupRequest:
    """The part of the authority's configuration that the set-up needs."""

    trust_domain: str
    key_type: KeyType
    tolerance_seconds: int


async def set_up(
    client: OpenBaoClient, layout: OpenBaoLayout, wanted: SetupRequest, now: int
) -> list[ProvisionedObject]:
    """Make what is missing. Raises OpenBaoError, also where an object of another kind exists."""
    made = [await _mount(client, layout.root, "pki"), await _mount(client, layout.intermediate, "pki")]
    made += [await _mount(client, layout.control, "pki"), await _mount(client, layout.transit, "transit")]
    made += [await _mount(client, layout.kv, "kv")]
    await _check_lasting(client, layout.kv)
    domain = wanted.trust_domain
    made += [
        await _root(client, layout.root, _Root("root", domain, wanted.key_type, 1), now),
        await _root(client, layout.control, _Root("control", domain, KeyType.EC_P256, 0), now),
        await _role(client, layout.intermediate, layout.role, leaf_role(wanted.tolerance_seconds)),
        await _role(client, layout.control, layout.role, _API_ROLE),
        await _statement_key(client, layout),
    ]
    return made


def leaf_role(tolerance_seconds: int) -> Json:
    """The role of leaf certificates: any name, for servers and clients, backdated by the tolerance."""
    return {
        **_ANY_NAME,
        "issuer_ref": "default",
        "client_flag": True,
        "not_before_duration": f"{tolerance_seconds}s",
        "max_ttl": _LONGEST,
    }


_ANY_NAME: Json = {
    "allow_any_name": True,
    "enforce_hostnames": False,
    "allow_ip_sans": True,
    "server_flag": True,
    "require_cn": False,
    "key_type": "any",
    "key_usage": ["DigitalSignature", "KeyEncipherment"],
    "no_store": True,
}

_API_ROLE: Json = {
    **_ANY_NAME,
    "issuer_ref": "default",
    "client_flag": False,
    "not_before_duration": f"{BACKDATED_SECONDS}s",
    "max_ttl": f"{SERVER_SECONDS}s",
}


async def _mount(client: OpenBaoClient, mount: str, kind: str) -> ProvisionedObject:
    found = (await client.read("sys/mounts") or {}).get(f"{mount}/")
    if found is None:
        config = {"config": {"max_lease_ttl": _LONGEST}} if kind == "pki" else {}
        options = {"options": {"version": "2"}} if kind == "kv" else {}
        await client.write(f"sys/mounts/{mount}", {"type": kind, **config, **options})
    elif found.get("type") != kind:
        raise OpenBaoError(f"mount {mount}: expected type {kind}, found {found.get('type')}; configure another name")
    elif kind == "kv" and (found.get("options") or {}).get("version") != "2":
        raise OpenBaoError(f"mount {mount}: expected kv version 2, found another; configure another name")
    if kind == "pki" and not (await client.read(f"{mount}/config/auto-tidy") or {}).get("enabled"):
        await client.write(f"{mount}/config/auto-tidy", _TIDY)
    return ProvisionedObject(f"{kind} mount", mount, made=found is None)


async def _check_lasting(client: OpenBaoClient, mount: str) -> None:
    """Refuse a mount that deletes the journal by itself."""
    life = (await client.read(f"{mount}/config") or {}).get("delete_version_after", "0s")
    if life != "0s":
        raise OpenBaoError(
            f"mount {mount}: expected secrets to stay until they are deleted, found delete_version_after {life}; "
            f"configure another mount for the journal (kv_mount)"
        )


@dataclass(frozen=True, slots=True)
class _Root:
    """A self-signed CA; ``name`` is its common name, and the name of its key and its issuer."""

    name: str
    trust_domain: str
    key_type: KeyType
    path_length: int


async def _root(client: OpenBaoClient, mount: str, root: _Root, now: int) -> ProvisionedObject:
    found = await default_issuer(client, mount)
    if found is not None:
        _check_domain(mount, found, root.trust_domain)
        return ProvisionedObject(f"{root.name} CA", mount, made=False)
    keys = (await client.list(f"{mount}/keys")).get("key_info") or {}
    if root.name not in [info.get("key_name") for info in keys.values()]:
        await client.write(f"{mount}/keys/generate/internal", {"key_name": root.name, **KEY_PARAMETERS[root.key_type]})
    subject = {"key_ref": root.name, "common_name": root.name, "exclude_cn_from_sans": True}
    # The signing request is only for its public key: the root's subject has the key's hash.
    request = await client.write(f"{mount}/intermediate/generate/existing", subject)
    public = x509.load_pem_x509_csr(str(request.get("csr")).encode()).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    more = {
        "organization": [root.trust_domain],
        "serial_number": hashlib.sha256(spki).hexdigest()[:16],
        "issuer_name": root.name,
        "max_path_length": root.path_length,
        "not_before_duration": f"{BACKDATED_SECONDS}s",
        "not_after": format_instant(now + ROOT_SECONDS),
    }
    await client.write(f"{mount}/root/generate/existing", subject | more)
    return ProvisionedObject(f"{root.name} CA", mount, made=True)


def _check_domain(mount: str, root: Certificate, trust_domain: str) -> None:
    """Refuse the CA of another trust domain: a mount belongs to one for ever."""
    found = [name.value for name in root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if found != [trust_domain]:
        subject = root.subject.rfc4514_string()
        raise OpenBaoError(
            f"mount {mount}: expected the CA of trust domain {trust_domain!r}, found {subject!r}; "
            f"give each trust domain a namespace, or mounts, of its own"
        )


async def _role(client: OpenBaoClient, mount: str, role: str, body: Json) -> ProvisionedObject:
    path = f"{mount}/roles/{role}"
    existed = await client.read(path) is not None
    await client.write(path, body)
    return ProvisionedObject("role", path, made=not existed)


async def _statement_key(client: OpenBaoClient, layout: OpenBaoLayout) -> ProvisionedObject:
    path = f"{layout.transit}/keys/{layout.key}"
    found = await client.read(path)
    if found is None:
        await client.write(path, {"type": "ed25519"})
    elif found.get("type") != "ed25519":
        raise OpenBaoError(f"{path}: expected a key of type ed25519, found {found.get('type')}; configure another")
    return ProvisionedObject("signing key", path, made=found is None)
