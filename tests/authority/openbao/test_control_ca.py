"""The control CA in OpenBao: the API's certificates that it signs, and what it refuses."""

import ssl
import time

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from authority.openbao.control_ca import open_control_ca
from authority.openbao.pki import default_issuer
from authority.openbao.setup import SetupRequest, set_up
from authority.pki.keystore import KeystoreError, KeyType
from authority.pki.server_certificate import ServerCertificate
from tests.harness.openbao.server import DOMAIN, TOLERANCE, OpenBaoNamespace
from tests.harness.pki.tls_server import NAMES, listening, served
from tidemark.certificates import fingerprint, to_pem


async def test_api_certificate_signed_by_the_control_ca_is_served(space: OpenBaoNamespace) -> None:
    async with space.authority() as client:
        ca = await open_control_ca(client, space.layout)
        assert ca.certificate == await default_issuer(space.client, "control")
        trusted = to_pem([ca.certificate])
        certificate = ServerCertificate(ca, NAMES)
        first = await certificate.renew(int(time.time()))
        async with listening(certificate.context) as port:
            for name in NAMES:
                assert await served(port, trusted, name) == first
            with pytest.raises(ssl.SSLCertVerificationError):
                await served(port, trusted, "example.com")
            second = await certificate.renew(int(time.time()))
            assert fingerprint(await served(port, trusted)) == fingerprint(second) != fingerprint(first)
        usage = first.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


async def test_name_that_no_certificate_can_have_is_refused(space: OpenBaoNamespace) -> None:
    async with space.authority() as client:
        certificate = ServerCertificate(await open_control_ca(client, space.layout), ["ünicode.example.com"])
        with pytest.raises(KeystoreError, match="API certificate: leaf tidemark authority: expected names for a cert"):
            await certificate.renew(int(time.time()))


async def test_missing_or_forbidden_control_ca_is_named(empty_space: OpenBaoNamespace) -> None:
    await empty_space.client.write("sys/mounts/control", {"type": "pki"})
    with pytest.raises(KeystoreError, match="mount control: expected the control CA, found none; run 'init --openbao'"):
        await open_control_ca(empty_space.client, empty_space.layout)
    wanted, now = SetupRequest(DOMAIN, KeyType.EC_P256, TOLERANCE), int(time.time())
    await set_up(empty_space.client, empty_space.layout, wanted, now)
    await empty_space.admit(empty_space.layout.policy().replace("control/sign/", "control/sigh/"))
    async with empty_space.authority() as client:
        certificate = ServerCertificate(await open_control_ca(client, empty_space.layout), NAMES)
        with pytest.raises(KeystoreError, match=r"API certificate: .* allow 'create or update' on 'control/sign/tidem"):
            await certificate.renew(now)
