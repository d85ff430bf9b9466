"""Requests to OpenBao's PKI secrets engine that several modules make."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoError
from authority.openbao.login import Json
from authority.pki.certificates import LeafNames
from authority.pki.keystore import KeyType
from tidemark.certificates import Certificate, parse_certificates

KEY_PARAMETERS: dict[KeyType, Json] = {
    KeyType.EC_P256: {"key_type": "ec", "key_bits": 256},
    KeyType.RSA_4096: {"key_type": "rsa", "key_bits": 4096},
}
"""What OpenBao calls our kinds of keys."""


def leaf_request(names: LeafNames, key: ec.EllipticCurvePrivateKey) -> Json:
    """The body of ``sign/:role``: a signing request whose names, and no others, go into the certificate.

    Raises:
        OpenBaoError: the names cannot stand in a certificate.
    """
    try:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names.common_name)])
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(subject)
            .add_extension(names.alternative_names(), critical=False)
            .sign(key, hashes.SHA256())
        )
    except ValueError as error:
        raise OpenBaoError(f"leaf {names.common_name}: expected names for a certificate, found {error}") from None
    return {"csr": csr.public_bytes(Encoding.PEM).decode(), "format": "pem", "exclude_cn_from_sans": True}


async def default_issuer(client: OpenBaoClient, mount: str) -> Certificate | None:
    """The certificate of a mount's default issuer; None where it has none. Raises OpenBaoError."""
    issuers = (await client.list(f"{mount}/issuers")).get("key_info") or {}
    default = next((issuer for issuer, info in issuers.items() if info.get("is_default")), None)
    if default is None:
        return None
    path = f"{mount}/issuer/{default}/json"
    pem = str((await client.read(path) or {}).get("certificate"))
    try:
        return parse_certificates(pem.encode(), most=1)[0]
    except ValueError as error:
        raise OpenBaoError(f"{path}: expected a certificate in PEM, {error}") from None
