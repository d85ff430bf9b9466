"""Makes certificates (RFC 5280): CAs as docs/architecture.md describes them, and leaves; pure."""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from authority.pki.keystore import CaKey, CaPair
from tidemark.certificates import Certificate


@dataclass(frozen=True, slots=True)
class Validity:
    """NotBefore and NotAfter in Unix seconds; a certificate carries exactly these."""

    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class CaName:
    """The name of a CA; its subject also has a hash of its key, so that no two CAs ever share a name.

    A TLS server lists the CAs that it trusts by name alone (RFC 8446, section 4.2.4), and agents compare that list.
    """

    trust_domain: str
    common_name: str

    def subject(self, key: CaKey) -> x509.Name:
        """``O=<trust domain>, CN=<common name>, serialNumber=<first 16 hex digits of SHA-256 of the key's SPKI>``."""
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashlib.sha256(spki).hexdigest()
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.trust_domain),
                x509.NameAttribute(NameOID.COMMON_NAME, self.common_name),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, digest[:16]),
            ]
        )


@dataclass(frozen=True, slots=True)
class LeafNames:
    """The names of a leaf; ``ip_addresses`` in text form."""

    common_name: str
    dns_names: Sequence[str]
    ip_addresses: Sequence[str]

    def alternative_names(self) -> x509.SubjectAlternativeName:
        """The names that peers check."""
        addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in self.ip_addresses]
        return x509.SubjectAlternativeName([*map(x509.DNSName, self.dns_names), *addresses])


def root(name: CaName, key: CaKey, validity: Validity, path_length: int) -> CaPair:
    """A CA signed by itself, with at most ``path_length`` levels of CAs below it."""
    subject = name.subject(key)
    builder = _ca(subject, key, validity, path_length).issuer_name(subject)
    return CaPair(builder.sign(key, hashes.SHA256()), key)


def intermediate(name: CaName, key: CaKey, validity: Validity, above: CaPair) -> CaPair:
    """A CA signed by another one, with no CA below it."""
    builder = _signed_by(_ca(name.subject(key), key, validity, 0), above)
    return CaPair(builder.sign(above.key, hashes.SHA256()), key)


def leaf(names: LeafNames, key: ec.EllipticCurvePrivateKey, validity: Validity, above: CaPair) -> Certificate:
    """A certificate for server and client use."""
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names.common_name)])
    builder = (
        _builder(subject, key, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(names.alternative_names(), critical=False)
    )
    return _signed_by(builder, above).sign(above.key, hashes.SHA256())


def _builder(subject: x509.Name, key: CaKey, validity: Validity) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(validity.not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(validity.not_after, UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _ca(subject: x509.Name, key: CaKey, validity: Validity, path_length: int) -> x509.CertificateBuilder:
    return (
        _builder(subject, key, validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
    )


def _signed_by(builder: x509.CertificateBuilder, above: CaPair) -> x509.CertificateBuilder:
    identifier = above.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return builder.issuer_name(above.certificate.subject).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )


def _usage(*allowed: str) -> x509.KeyUsage:
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
