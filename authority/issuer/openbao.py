"""The issuer in OpenBao: roots in one PKI mount, the CAs of the epochs in another; every key is made there and stays.

A certificate is checked before it is used: OpenBao ignores parameters that it does not know (``not_before``), and
shortens what it may not sign.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authority.issuer.interface import (
    CaRequest,
    IssuedLeaf,
    IssuerError,
    IssuerHoldings,
    LeafRequest,
    check_ca_id,
    is_ca_id,
)
from authority.issuer.openbao_mounts import PkiMounts, parse_one
from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoError
from authority.openbao.layout import OpenBaoLayout
from authority.openbao.pki import leaf_request
from authority.pki import keystore
from authority.pki.certificates import LeafNames
from authority.pki.keystore import KeyType
from tidemark.certificates import Certificate, is_ca, issued_by, not_after, not_before, to_pem
from tidemark.strict_json import format_instant

_TRIES = 3  # of a signature whose dates are not what was asked for


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
        self._mounts = PkiMounts(client, layout)
        self._layout = layout
        self._key_type = key_type
        self._tolerance = tolerance_seconds
        self._clock = clock

    async def roots(self) -> tuple[Certificate, ...]:
        """The roots above the CAs: the default issuer of their mount, which signs, then the others, newest first."""
        async with _translated():
            return tuple((await self._mounts.roots()).values())

    async def issue_ca(self, request: CaRequest) -> Certificate:
        """Make the CA, or return the one already made under this name if it is what is asked for now."""
        async with _translated():
            return await self._issue_ca(request)

    async def activate(self, ca_id: str) -> None:
        """Make this CA the default issuer, which signs for cert-manager and others."""
        async with _translated():
            held = await self._mounts.existing(ca_id)
            if not held.is_default:
                await self._mounts.make_default(held.issuers[0])

    async def issue_leaf(self, ca_id: str, request: LeafRequest) -> IssuedLeaf:
        """Sign a leaf with the CA of this name."""
        async with _translated():
            return await self._issue_leaf(ca_id, request)

    async def holdings(self) -> IssuerHoldings:
        """What is there now, be it a key alone; the default issuer signs for others."""
        async with _translated():
            ours = [held for held in await self._mounts.all_held() if is_ca_id(held.ca_id)]
            cas = {held.ca_id: await self._mounts.fingerprint(held) for held in ours}
            return IssuerHoldings(cas, next((held.ca_id for held in ours if held.is_default), ""))

    async def delete(self, ca_ids: Sequence[str]) -> None:
        """Delete CAs and their keys."""
        wanted = {check_ca_id(ca_id) for ca_id in ca_ids}
        async with _translated():
            found = [held for held in await self._mounts.all_held() if held.ca_id in wanted]
            self._check_clock()
            for held in found:
                await self._mounts.delete(held)

    async def _issue_ca(self, request: CaRequest) -> Certificate:
        check_ca_id(request.ca_id)
        signer, above = next(iter((await self._mounts.roots()).items()))
        if request.not_after > not_after(above):
            raise IssuerError(
                f"CA {request.ca_id}: expected it to end by {format_instant(not_after(above))}, as its root does, "
                f"found {format_instant(request.not_after)}; a new root is due"
            )
        held = await self._mounts.held(request.ca_id)
        for issuer in held.issuers:
            certificate = await self._mounts.certificate(issuer)
            if request.is_met_by(certificate):
                # A crash came between importing the certificate and naming its issuer.
                if not held.is_named:
                    await self._mounts.name(issuer, request.ca_id)
                return certificate
        self._check_clock()
        # The key first, the name last: a crash in between leaves a key with the CA's name, by which the next
        # call, or the inventory, finds everything that was made.
        if held.issuers:
            await self._mounts.delete(held)
        if not held.key or held.issuers:
            await self._mounts.make_key(request.ca_id, self._key_type)
        csr = await self._mounts.signing_request(request)
        certificate = await self._sign_ca(signer, above, request, csr)
        await self._mounts.name(await self._mounts.import_certificate(certificate), request.ca_id)
        return certificate

    async def _sign_ca(
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
            # OpenBao takes NotBefore as a distance from its own now, so the distance is
            # counted by OpenBao's clock, and again for each try.
            ago = max(0, int(self._client.server_time or self._clock()) - request.not_before)
            answer = await self._client.write(path, body | {"not_before_duration": f"{ago}s"})
            certificate = parse_one(path, answer.get("certificate"))
            faults = _date_faults(certificate, request, self._tolerance)
            if certificate.public_key() != csr.public_key() or not request.is_met_by(certificate):
                faults.append(f"subject {certificate.subject.rfc4514_string()} or key are not what was asked for")
            if not is_ca(certificate) or not issued_by(certificate, above):
                faults.append("it is no CA of this root")
            if not faults:
                return certificate
        raise IssuerError(f"{path}: expected the certificate that was asked for, found another: {'; '.join(faults)}")

    async def _issue_leaf(self, ca_id: str, request: LeafRequest) -> IssuedLeaf:
        held = await self._mounts.existing(ca_id)
        above = await self._mounts.certificate(held.issuers[0])
        if request.not_after > not_after(above):
            raise IssuerError(
                f"leaf {request.common_name}: expected it to end by {format_instant(not_after(above))}, "
                f"as its CA {ca_id} does, found {format_instant(request.not_after)}"
            )
        self._check_clock()
        key = ec.generate_private_key(ec.SECP256R1())
        path = f"{self._layout.intermediate}/issuer/{held.issuers[0]}/sign/{self._layout.role}"
        body = leaf_request(LeafNames(request.common_name, request.dns_names, request.ip_addresses), key)
        answer = await self._client.write(path, body | {"not_after": format_instant(request.not_after)})
        certificate = parse_one(path, answer.get("certificate"))
        faults = _date_faults(certificate, request, self._tolerance)
        if certificate.public_key() != key.public_key() or not issued_by(certificate, above):
            faults.append("key or CA are not what was asked for")
        if faults:
            raise IssuerError(
                f"{path}: expected the leaf that was asked for, found another: {'; '.join(faults)}; "
                f"'init --openbao' brings the role up to date"
            )
        return IssuedLeaf(to_pem([certificate, above]), keystore.key_pem(key, None))

    def _check_clock(self) -> None:
        """Nothing is signed or deleted while the clocks disagree. Raises IssuerError."""
        theirs, ours = self._client.server_time, self._clock()
        # One second more, as OpenBao's time comes in whole seconds.
        if theirs is not None and abs(theirs - ours) > self._tolerance + 1:
            raise IssuerError(
                f"clock: expected OpenBao's within {self._tolerance} s of ours ({format_instant(int(ours))}), "
                f"found it at {format_instant(int(theirs))}; set the one that is wrong"
            )


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """OpenBaoError as IssuerError."""
    try:
        yield
    except OpenBaoError as error:
        raise IssuerError(str(error)) from None


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
