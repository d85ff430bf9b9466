"""The roots and CAs in OpenBao's two PKI mounts, one request or one look at a time; the issuer puts them in order.

https://openbao.org/api-docs/secret/pki/. A CA's key is named by the CA's name. The key is the first part of a CA that
exists, and the last that is deleted: by the key's name everything that a crash left is found.
"""

import asyncio
from dataclasses import dataclass

from cryptography import x509

from authority.issuer.interface import CaRequest, IssuerError
from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import RequestRefused
from authority.openbao.layout import OpenBaoLayout
from authority.openbao.login import Json
from authority.openbao.pki import KEY_PARAMETERS
from authority.pki.keystore import KeyType
from tidemark.certificates import (
    Certificate,
    PemError,
    fingerprint,
    issued_by,
    not_before,
    parse_certificates,
    to_pem,
)


@dataclass(frozen=True, slots=True)
class HeldCa:
    """What the mount holds of one CA."""

    ca_id: str
    key: str
    """Id of its key; "" where there is none."""
    issuers: tuple[str, ...]
    """Ids of its issuers, the one with the CA's name first."""
    is_named: bool
    """Whether an issuer has the CA's name: the last step of making a CA."""
    is_default: bool
    """Whether the mount signs with it where a request names no issuer."""


class PkiMounts:
    """Reads and changes both mounts. Every method raises OpenBaoError, and IssuerError for an unexpected answer."""

    def __init__(self, client: OpenBaoClient, layout: OpenBaoLayout) -> None:
        self._client = client
        self._root = layout.root
        self._intermediate = layout.intermediate
        # By issuer; never forgotten, as an id stands for one certificate for ever.
        self._fingerprints: dict[str, str] = {}

    async def roots(self) -> dict[str, Certificate]:
        """The roots by their issuers' ids, the one that signs first. Raises IssuerError where there is none."""
        info = _key_info(await self._client.list(f"{self._root}/issuers"))
        found = await asyncio.gather(*(self._certificate(self._root, issuer) for issuer in info))
        roots = {issuer: root for issuer, root in zip(info, found, strict=True) if issued_by(root, root)}
        default = next((issuer for issuer in roots if info[issuer].get("is_default")), None)
        if default is None:
            raise IssuerError(
                f"{self._root}: expected a root as its default issuer, found none; run 'init --openbao' first"
            )
        return dict(sorted(roots.items(), key=lambda root: (root[0] == default, not_before(root[1])), reverse=True))

    async def certificate(self, issuer: str) -> Certificate:
        """The certificate of a CA's issuer."""
        return await self._certificate(self._intermediate, issuer)

    async def all_held(self) -> list[HeldCa]:
        """Everything in the mount of the CAs that has a name, ours or not."""
        keys = _key_info(await self._client.list(f"{self._intermediate}/keys"))
        issuers = _key_info(await self._client.list(f"{self._intermediate}/issuers"))
        names = {str(info.get("key_name") or "") for info in keys.values()}
        names |= {str(info.get("issuer_name") or "") for info in issuers.values()}
        return [_held_of(name, keys, issuers) for name in sorted(names - {""})]

    async def held(self, ca_id: str) -> HeldCa:
        """What the mount holds of this CA, which may be nothing."""
        found = (held for held in await self.all_held() if held.ca_id == ca_id)
        return next(found, HeldCa(ca_id, "", (), is_named=False, is_default=False))

    async def existing(self, ca_id: str) -> HeldCa:
        """A CA that was made to the end. Raises IssuerError where it was not."""
        held = await self.held(ca_id)
        if not held.is_named:
            raise IssuerError(f"{self._intermediate}: expected the CA {ca_id}, found none")
        return held

    async def fingerprint(self, held: HeldCa) -> str:
        """The fingerprint of the CA's certificate; "" where the CA cannot sign."""
        if not held.key or not held.is_named:
            return ""
        issuer = held.issuers[0]
        if issuer not in self._fingerprints:
            self._fingerprints[issuer] = fingerprint(await self.certificate(issuer))
        return self._fingerprints[issuer]

    async def make_key(self, ca_id: str, key_type: KeyType) -> None:
        """Generate a CA's key in OpenBao."""
        body = {"key_name": ca_id, **KEY_PARAMETERS[key_type]}
        try:
            await self._client.write(f"{self._intermediate}/keys/generate/internal", body)
        except RequestRefused:
            # Refused because the name is taken: a first try made the key, and its answer was lost.
            if not (await self.held(ca_id)).key:
                raise

    async def signing_request(self, request: CaRequest) -> x509.CertificateSigningRequest:
        """A signing request under the CA's key, only to learn the key: the subject is set where it is signed."""
        body = {"key_ref": request.ca_id, "common_name": request.common_name, "exclude_cn_from_sans": True}
        path = f"{self._intermediate}/intermediate/generate/existing"
        answer = await self._client.write(path, body)
        try:
            return x509.load_pem_x509_csr(str(answer.get("csr")).encode())
        except ValueError as error:
            raise IssuerError(f"{path}: expected a signing request in PEM, found {error}") from None

    async def import_certificate(self, certificate: Certificate) -> str:
        """Bring a CA's certificate to its key; returns the issuer's id, the same one each time."""
        path = f"{self._intermediate}/intermediate/set-signed"
        answer = await self._client.write(path, {"certificate": to_pem([certificate]).decode()})
        ids = [*(answer.get("imported_issuers") or []), *(answer.get("existing_issuers") or [])]
        if len(ids) != 1:
            raise IssuerError(f"{path}: expected one issuer, found {len(ids)}")
        return str(ids[0])

    async def name(self, issuer: str, ca_id: str) -> None:
        """Give the issuer its name. What it signs for others ends with it at the latest."""
        body = {"issuer_name": ca_id, "leaf_not_after_behavior": "truncate"}
        await self._client.patch(f"{self._intermediate}/issuer/{issuer}", body)

    async def make_default(self, issuer: str) -> None:
        """Let the mount sign with this issuer where a request names none."""
        body = {"default": issuer, "default_follows_latest_issuer": False}
        await self._client.write(f"{self._intermediate}/config/issuers", body)

    async def delete(self, held: HeldCa) -> None:
        """Delete a CA: its issuers first, its key, by whose name the rest is found after a crash, last."""
        for issuer in held.issuers:
            await self._client.delete(f"{self._intermediate}/issuer/{issuer}")
        if held.key:
            await self._client.delete(f"{self._intermediate}/key/{held.key}")

    async def _certificate(self, mount: str, issuer: str) -> Certificate:
        path = f"{mount}/issuer/{issuer}/json"
        return parse_one(path, (await self._client.read(path) or {}).get("certificate"))


def parse_one(path: str, pem: object) -> Certificate:
    """The one certificate of an answer from ``path``. Raises IssuerError."""
    try:
        return parse_certificates(str(pem).encode(), most=1)[0]
    except PemError as error:
        raise IssuerError(f"{path}: expected a certificate in PEM, {error}") from None


def _key_info(listed: Json) -> dict[str, Json]:
    info = listed.get("key_info")
    return info if isinstance(info, dict) else {}


def _held_of(ca_id: str, keys: dict[str, Json], issuers: dict[str, Json]) -> HeldCa:
    """An issuer belongs to a CA by its name, or by its key where a crash came before it was named."""
    key = next((identity for identity, info in keys.items() if info.get("key_name") == ca_id), "")
    named = [identity for identity, info in issuers.items() if info.get("issuer_name") == ca_id]
    unnamed = [
        identity for identity, info in issuers.items() if key and info.get("key_id") == key and identity not in named
    ]
    return HeldCa(
        ca_id=ca_id,
        key=key,
        issuers=(*named, *unnamed),
        is_named=bool(named),
        is_default=any(issuers[identity].get("is_default") for identity in named),
    )
