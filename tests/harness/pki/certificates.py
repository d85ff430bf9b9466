"""Certificates as RFC 5280 has them, written without the code under test: strict verifiers take every one.

Python's default contexts are strict from 3.13 on (``VERIFY_X509_STRICT``), so a certificate below another one names
the key that signed it (section 4.2.1.1), a CA names its own key (4.2.1.2), and both say what the key is for (4.2.1.3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

HERE: tuple[x509.GeneralName, ...] = (x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost"))
"""The alternative names of every server that tests start on this machine."""


@dataclass(frozen=True)
class SigningCa:
    """A CA: its name, and the key that signs."""

    subject: x509.Name
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Lifetime:
    """Unix seconds, both ends included."""

    begin: int
    end: int


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def usage(*allowed: str) -> x509.KeyUsage:
    """Key usage with these bits alone, by cryptography's names of them."""
    return x509.KeyUsage(
        digital_signature="digital_signature" in allowed,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign="key_cert_sign" in allowed,
        crl_sign="crl_sign" in allowed,
        encipher_only=False,
        decipher_only=False,
    )


def identifiers(key: Key, signing: Key) -> Iterator[x509.ExtensionType]:
    """The subject key identifier and the authority key identifier."""
    yield x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    yield x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())


def ca_certificate(
    issuer: SigningCa, validity: Lifetime, above: SigningCa | None = None, *, path_length: int | None = None
) -> x509.Certificate:
    """The certificate of this CA, signed by the one above or else by itself."""
    builder = _begun(issuer.subject, issuer.key, validity, above or issuer)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
        .sign((above or issuer).key, hashes.SHA256())
    )


def leaf_certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    validity: Lifetime,
    above: SigningCa,
    names: Sequence[x509.GeneralName] = HERE,
) -> x509.Certificate:
    """A leaf for servers and clients."""
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _begun(common_name(name), key, validity, above)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(above.key, hashes.SHA256())
    )


def _begun(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, validity: Lifetime, above: SigningCa
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(validity.begin, UTC))
        .not_valid_after(datetime.fromtimestamp(validity.end, UTC))
    )
    for extension in identifiers(key, above.key):
        builder = builder.add_extension(extension, critical=False)
    return builder


def key_pem(key: Key) -> bytes:
    """The private key as PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
