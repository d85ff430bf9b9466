"""The issuer in OpenBao: roots in one PKI mount, the CAs of the epochs in another; every key is made there and stays.

A CA's key, by its name the CA's intent, is the first thing that exists of it and the last that goes: whatever a crash
left between is found by it. A certificate is used only after a look at what it says, because OpenBao passes over what
it does not know (``not_before``) and shortens what it may not sign.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authority.issuer.interface import (
    CaRequest,
    IssuedLeaf,
    IssuerError,
    IssuerHoldings,
    LeafRequest,
    check_intent,
    is_intent,
)
from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoError, RequestRefused
from authority.openbao.layout import OpenBaoLayout
from authority.openbao.login import Json
from authority.openbao.pki import KEY_PARAMETERS, leaf_request
from authority.pki import keystore
from authority.pki.certificates import LeafNames
from authority.pki.keystore import KeyType
from tidemark.certificates import (
    Certificate,
    PemError,
    fingerprint,
    is_ca,
    issued_by,
    not_after,
    not_before,
    parse_certificates,
    to_pem,
)
from tidemark.strict_json import format_instant

_TRIES = 3  # of a signature whose dates are not what was asked for


@dataclass(frozen=True, slots=True)
class _Held:
    """What the mount holds of one CA: ids of its key and of its issuers, the named one first; "" and () where none."""

    intent: str
    key: str
    issuers: tuple[str, ...]
    named: bool
    default: bool


class OpenBaoIssuer:
    """Implements ``Issuer``; ``clock`` is ours, to be compared with OpenBao's."""

    def __init__(
        self,
        client: OpenBaoClient,
        layout: OpenBaoLayout,
        key_type: KeyType,
        *,
        tolerance_seconds: int,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._layout = layout
        self._key_type = key_type
        self._tolerance = tolerance_seconds
        self._clock = clock
        self._fingerprints: dict[str, str] = {}  # by issuer: an id stands for one certificate for ever

    async def roots(self) -> tuple[Certificate, ...]:
        """The roots above the CAs: the default issuer of their mount, which signs, then the others, newest first."""
        async with self._in_openbao():
            return tuple((await self._roots()).values())

    async def issue_ca(self, request: CaRequest) -> Certificate:
        """Make the CA, or return the one already made for this intent if it is what is asked for now."""
        async with self._in_openbao():
            return await self._issue_ca(request)

    async def activate(self, intent: str) -> None:
        """Make this CA the default issuer, which signs for cert-manager and others."""
        async with self._in_openbao():
            held = await self._existing(intent)
            if not held.default:
                body = {"default": held.issuers[0], "default_follows_latest_issuer": False}
                await self._client.write(f"{self._layout.intermediate}/config/issuers", body)

    async def issue_leaf(self, intent: str, request: LeafRequest) -> IssuedLeaf:
        """Sign a leaf with the CA of this intent."""
        async with self._in_openbao():
            return await self._issue_leaf(intent, request)

    async def holdings(self) -> IssuerHoldings:
        """What is there now, be it a key alone; the default issuer signs for others."""
        async with self._in_openbao():
            ours = [held for held in await self._all_held() if is_intent(held.intent)]
            cas = {held.intent: await self._fingerprint(held) for held in ours}
            return IssuerHoldings(cas, next((held.intent for held in ours if held.default), ""))

    async def delete(self, intents: Sequence[str]) -> None:
        """Delete CAs and their keys."""
        wanted = {check_intent(intent) for intent in intents}
        async with self._in_openbao():
            held = [one for one in await self._all_held() if one.intent in wanted]
            self._check_clock()
            for one in held:
                await self._delete(one)

    @asynccontextmanager
    async def _in_openbao(self) -> AsyncIterator[None]:
        try:
            yield
        except OpenBaoError as error:
            raise IssuerError(str(error)) from None

    async def _issue_ca(self, request: CaRequest) -> Certificate:
        check_intent(request.intent)
        signer, above = next(iter((await self._roots()).items()))
        if request.not_after > not_after(above):
            raise IssuerError(
                f"CA {request.intent}: expected it to end by {format_instant(not_after(above))}, as its root does, "
                f"found {format_instant(request.not_after)}; a new root is due"
            )
        held = await self._held(request.intent)
        for issuer in held.issuers:
            certificate = await self._certificate(self._layout.intermediate, issuer)
            if request.is_met_by(certificate):
                if not held.named:  # a crash came between importing and naming it
                    await self._name(issuer, request.intent)
                return certificate
        self._check_clock()
        if held.issuers:
            await self._delete(held)
        if not held.key or held.issuers:
            await self._make_key(request.intent)
        certificate = await self._signed(signer, above, request, await self._csr(request))
        await self._name(await self._import(certificate), request.intent)
        return certificate

    async def _make_key(self, intent: str) -> None:
        body = {"key_name": intent, **KEY_PARAMETERS[self._key_type]}
        try:
            await self._client.write(f"{self._layout.intermediate}/keys/generate/internal", body)
        except RequestRefused:
            if not (await self._held(intent)).key:  # or a first try made it, and its answer was lost
                raise

    async def _csr(self, request: CaRequest) -> x509.CertificateSigningRequest:
        body = {"key_ref": request.intent, "common_name": request.common_name, "exclude_cn_from_sans": True}
        path = f"{self._layout.intermediate}/intermediate/generate/existing"
        answer = await self._client.write(path, body)
        try:
            return x509.load_pem_x509_csr(str(answer.get("csr")).encode())
        except ValueError as error:
            raise IssuerError(f"{path}: expected a signing request in PEM, found {error}") from None

    async def _signed(
        self, signer: str, above: Certificate, request: CaRequest, csr: x509.CertificateSigningRequest
    ) -> Certificate:
        """The root's signature under the key, with the dates that were asked for. Raises IssuerError."""
        spki = csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        body = {
            "csr": csr.public_bytes(Encoding.PEM).decode(),
            "format": "pem",
            "organization": [request.trust_domain],
            "common_name": request.common_name,
            "serial_number": hashlib.sha256(spki).hexdigest()[:16],
            "exclude_cn_from_sans": True,
            "max_path_length": "0",
            "not_after": format_instant(request.not_after),
        }
        path = f"{self._layout.root}/issuer/{signer}/sign-intermediate"
        faults: list[str] = []
        for _ in range(_TRIES):
            # Counted back from OpenBao's own now, by its own clock.
            ago = max(0, int(self._client.server_time or self._clock()) - request.not_before)
            answer = await self._client.write(path, body | {"not_before_duration": f"{ago}s"})
            certificate = _one_certificate(path, answer.get("certificate"))
            faults = _date_faults(certificate, request, self._tolerance)
            if certificate.public_key() != csr.public_key() or not request.is_met_by(certificate):
                faults.append(f"subject {certificate.subject.rfc4514_string()} or key are not what was asked for")
            if not is_ca(certificate) or not issued_by(certificate, above):
                faults.append("it is no CA of this root")
            if not faults:
                return certificate
        raise IssuerError(f"{path}: expected the certificate that was asked for, found another: {'; '.join(faults)}")

    async def _import(self, certificate: Certificate) -> str:
        """Bring the certificate to its key; returns the issuer's id, the same one each time."""
        path = f"{self._layout.intermediate}/intermediate/set-signed"
        answer = await self._client.write(path, {"certificate": to_pem([certificate]).decode()})
        ids = [*(answer.get("imported_issuers") or []), *(answer.get("existing_issuers") or [])]
        if len(ids) != 1:
            raise IssuerError(f"{path}: expected one issuer, found {len(ids)}")
        return str(ids[0])

    async def _name(self, issuer: str, intent: str) -> None:
        """Give the issuer its intent for a name. What it signs for others ends with it at the latest."""
        body = {"issuer_name": intent, "leaf_not_after_behavior": "truncate"}
        await self._client.patch(f"{self._layout.intermediate}/issuer/{issuer}", body)

    async def _issue_leaf(self, intent: str, request: LeafRequest) -> IssuedLeaf:
        held = await self._existing(intent)
        above = await self._certificate(self._layout.intermediate, held.issuers[0])
        if request.not_after > not_after(above):
            raise IssuerError(
                f"leaf {request.common_name}: expected it to end by {format_instant(not_after(above))}, "
                f"as its CA {intent} does, found {format_instant(request.not_after)}"
            )
        self._check_clock()
        key = ec.generate_private_key(ec.SECP256R1())
        path = f"{self._layout.intermediate}/issuer/{held.issuers[0]}/sign/{self._layout.role}"
        body = leaf_request(LeafNames(request.common_name, request.dns_names, request.ip_addresses), key)
        answer = await self._client.write(path, body | {"not_after": format_instant(request.not_after)})
        certificate = _one_certificate(path, answer.get("certificate"))
        faults = _date_faults(certificate, request, self._tolerance)
        if certificate.public_key() != key.public_key() or not issued_by(certificate, above):
            faults.append("key or CA are not what was asked for")
        if faults:
            raise IssuerError(
                f"{path}: expected the leaf that was asked for, found another: {'; '.join(faults)}; "
                f"'init --openbao' brings the role up to date"
            )
        return IssuedLeaf(to_pem([certificate, above]), keystore.key_pem(key, None))

    async def _delete(self, held: _Held) -> None:
        for issuer in held.issuers:
            await self._client.delete(f"{self._layout.intermediate}/issuer/{issuer}")
        if held.key:
            await self._client.delete(f"{self._layout.intermediate}/key/{held.key}")

    async def _existing(self, intent: str) -> _Held:
        held = await self._held(intent)
        if not held.named:
            raise IssuerError(f"{self._layout.intermediate}: expected the CA of intent {intent}, found none")
        return held

    async def _held(self, intent: str) -> _Held:
        found = (held for held in await self._all_held() if held.intent == intent)
        return next(found, _Held(intent, "", (), named=False, default=False))

    async def _all_held(self) -> list[_Held]:
        mount = self._layout.intermediate
        keys = _key_info(await self._client.list(f"{mount}/keys"))
        issuers = _key_info(await self._client.list(f"{mount}/issuers"))
        names = {str(info.get("key_name") or "") for info in keys.values()}
        names |= {str(info.get("issuer_name") or "") for info in issuers.values()}
        return [_held_of(name, keys, issuers) for name in sorted(names - {""})]

    async def _fingerprint(self, held: _Held) -> str:
        """Of the CA; "" where it cannot sign."""
        if not held.key or not held.named:
            return ""
        issuer = held.issuers[0]
        if issuer not in self._fingerprints:
            self._fingerprints[issuer] = fingerprint(await self._certificate(self._layout.intermediate, issuer))
        return self._fingerprints[issuer]

    async def _roots(self) -> dict[str, Certificate]:
        """The roots by their issuers' ids, the one that signs first. Raises IssuerError where there is none."""
        info = _key_info(await self._client.list(f"{self._layout.root}/issuers"))
        found = await asyncio.gather(*(self._certificate(self._layout.root, issuer) for issuer in info))
        roots = {issuer: root for issuer, root in zip(info, found, strict=True) if issued_by(root, root)}
        default = next((issuer for issuer in roots if info[issuer].get("is_default")), None)
        if default is None:
            raise IssuerError(
                f"{self._layout.root}: expected a root as its default issuer, found none; run 'init --openbao' first"
            )
        return dict(sorted(roots.items(), key=lambda root: (root[0] == default, not_before(root[1])), reverse=True))

    async def _certificate(self, mount: str, issuer: str) -> Certificate:
        path = f"{mount}/issuer/{issuer}/json"
        return _one_certificate(path, (await self._client.read(path) or {}).get("certificate"))

    def _check_clock(self) -> None:
        """Nothing is signed or deleted while the clocks disagree. Raises IssuerError."""
        theirs, ours = self._client.server_time, self._clock()
        if theirs is not None and abs(theirs - ours) > self._tolerance + 1:  # theirs comes in whole seconds
            raise IssuerError(
                f"clock: expected OpenBao's within {self._tolerance} s of ours ({format_instant(int(ours))}), "
                f"found it at {format_instant(int(theirs))}; set the one that is wrong"
            )


def _one_certificate(path: str, pem: object) -> Certificate:
    try:
        return parse_certificates(str(pem).encode(), most=1)[0]
    except PemError as error:
        raise IssuerError(f"{path}: expected a certificate in PEM, {error}") from None


def _date_faults(certificate: Certificate, request: CaRequest | LeafRequest, tolerance: int) -> list[str]:
    """NotAfter counts to the second, NotBefore within the tolerance."""
    faults = []
    if not_after(certificate) != request.not_after:
        faults.append(f"NotAfter {format_instant(not_after(certificate))}, not {format_instant(request.not_after)}")
    if abs(not_before(certificate) - request.not_before) > tolerance:
        faults.append(
            f"NotBefore {format_instant(not_before(certificate))}, not within {tolerance} s of "
            f"{format_instant(request.not_before)}"
        )
    return faults


def _key_info(listed: Json) -> dict[str, Json]:
    info = listed.get("key_info")
    return info if isinstance(info, dict) else {}


def _held_of(intent: str, keys: dict[str, Json], issuers: dict[str, Json]) -> _Held:
    """An issuer belongs to a CA by its name, or by its key where a crash kept it from being named."""
    key = next((identity for identity, info in keys.items() if info.get("key_name") == intent), "")
    named = [identity for identity, info in issuers.items() if info.get("issuer_name") == intent]
    unnamed = [
        identity for identity, info in issuers.items() if key and info.get("key_id") == key and identity not in named
    ]
    return _Held(
        intent=intent,
        key=key,
        issuers=(*named, *unnamed),
        named=bool(named),
        default=any(issuers[identity].get("is_default") for identity in named),
    )
