"""The API's certificate: real handshakes before and after it is renewed."""

import asyncio
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from authority.pki.certificates import LeafNames, Validity
from authority.pki.control_ca import EmbeddedControlCa, create_control_ca, read_control_ca
from authority.pki.keystore import KeystoreError
from authority.pki.server_certificate import ServerCertificate
from tests.harness.pki.tls_server import NAMES, listening, served
from tidemark.certificates import fingerprint, not_after, to_pem

NOW = int(time.time())  # handshakes go by the real clock


@pytest.fixture
def state(tmp_path: Path) -> Path:
    create_control_ca(tmp_path, "bus.example.com", NOW, None)
    return tmp_path


async def test_clients_verify_the_api_certificate_before_and_after_renewal(state: Path) -> None:
    ca = read_control_ca(state, None)
    trusted = to_pem([ca.certificate])
    certificate = ServerCertificate(EmbeddedControlCa(ca), NAMES)
    first = await certificate.renew(NOW)
    async with listening(certificate.context) as port:
        assert await served(port, trusted) == first
        assert await served(port, trusted, "127.0.0.1") == first
        second = await certificate.renew(NOW + 1)
        assert fingerprint(second) != fingerprint(first)
        assert await served(port, trusted) == second
        with pytest.raises(ssl.SSLCertVerificationError):
            await served(port, trusted, "example.com")
    assert [path.name for path in (state / "control").iterdir()] == ["ca"]


@dataclass
class AwayOnce:
    """A control CA that cannot be reached the second time it is asked."""

    ca: EmbeddedControlCa
    asked: int = 0

    @property
    def certificate(self) -> x509.Certificate:
        return self.ca.certificate

    async def sign(self, names: LeafNames, key: ec.EllipticCurvePrivateKey, validity: Validity) -> x509.Certificate:
        self.asked += 1
        if self.asked == 2:
            raise KeystoreError("control CA: away")
        return await self.ca.sign(names, key, validity)


async def test_certificate_is_renewed_at_half_life_and_soon_after_a_failure(state: Path) -> None:
    ca = read_control_ca(state, None)
    # Half of the lifetime is what a busy machine may lose before the client refuses the certificate as expired.
    certificate = ServerCertificate(AwayOnce(EmbeddedControlCa(ca)), NAMES, lifetime=8)
    first = await certificate.renew(int(time.time()))
    trusted = to_pem([ca.certificate])
    complaints: list[str] = []
    async with listening(certificate.context) as port, asyncio.timeout(60):
        renewing = asyncio.create_task(certificate.run_renewal(time.time, lambda error: complaints.append(str(error))))
        newest = first
        while newest == first:
            newest = await served(port, trusted)
        renewing.cancel()
    assert newest.not_valid_after_utc > first.not_valid_after_utc
    assert complaints == ["control CA: away"]


async def test_api_certificate_never_outlives_its_ca(state: Path) -> None:
    ca = read_control_ca(state, None)
    certificate = ServerCertificate(EmbeddedControlCa(ca), NAMES)
    end = not_after(ca.certificate)
    assert not_after(await certificate.renew(end - 60)) == end
    with pytest.raises(KeystoreError, match="control CA: expected it to be valid, found it expired"):
        await certificate.renew(end)
