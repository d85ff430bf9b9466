"""PEM files (RFC 7468) and X.509 certificates (RFC 5280), as authority, agents and applications judge them; pure.

Parsing is stricter than OpenSSL's and Go's on purpose. Go's ``AppendCertsFromPEM`` silently skips a block that does not
parse or has PEM headers; OpenSSL gives up the whole file. So a file that is not strictly PEM may be half a trust store
in one workload and an empty trust store in the next.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID, PublicKeyAlgorithmOID

Certificate = x509.Certificate

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_LABEL = re.compile(rb"-----BEGIN [A-Z0-9 ]{1,40}-----")
_COMMENT = re.compile(rb"#[^\x00-\x08\x0a-\x1f\x7f]{0,199}")

_EC_CURVES = frozenset({"secp224r1", "secp256r1", "secp384r1", "secp521r1"})
"""The curves that Go can read; nats-server ignores a certificate on another curve."""

_LEAST_RSA_BITS = 2048
"""By default OpenSSL neither presents nor trusts a shorter key (security level 2); Go does."""

_NAME_LENGTHS = {
    NameOID.COUNTRY_NAME: (2, 2),
    NameOID.JURISDICTION_COUNTRY_NAME: (2, 2),
    NameOID.COMMON_NAME: (1, 64),
}
"""Least and most bytes of the attributes whose length the library only warns about (RFC 5280, appendix A.1)."""

_LEAF_KEYS = (RSAPrivateKey, EllipticCurvePrivateKey, Ed25519PrivateKey)


class PemError(ValueError):
    """A PEM file holds something other than whole certificates; the message names the block and what was found."""


class LeafRejected(ValueError):
    """A leaf cannot be used; ``reason`` is one word for metrics, the message says what was expected and found."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_certificates(pem: bytes, most: int = 64) -> tuple[Certificate, ...]:
    """Read every certificate of a PEM file (RFC 7468), in the order of the file: 1 to ``most``.

    Between the blocks only white space and comments are allowed: lines of up to 200 bytes that start with ``#``
    (OpenSSL reads longer lines in pieces, and a piece may look like the start of a block). Inside a block only base64
    is allowed, without empty lines (OpenSSL takes an empty line for the end of the PEM headers).

    Raises:
        PemError: anything else in the file, a block that does not parse, no block, or more than ``most``.
    """
    try:
        pem.decode()
    except UnicodeDecodeError as error:
        raise PemError(f"expected text in UTF-8, found another byte at {error.start}") from None
    certificates = tuple(_parse_block(encoded, number) for number, encoded in enumerate(_blocks(pem, most), start=1))
    if not certificates:
        raise PemError("expected a certificate or more, found none")
    return certificates


def _blocks(pem: bytes, most: int) -> Iterator[bytes]:
    """The base64 of each block. Raises PemError for a line that has no place where it stands, and for more blocks."""
    found = 0
    block: list[bytes] | None = None
    for number, raw in enumerate(pem.replace(b"\r\n", b"\n").split(b"\n"), start=1):
        line = raw.rstrip(b" \t")
        if block is None:
            if line == _BEGIN:
                block = []
            elif line and not _COMMENT.fullmatch(line):
                raise PemError(f"line {number}: expected a CERTIFICATE block, found {_label_or_other(line)}")
        elif line == _END:
            if found == most:
                raise PemError(f"line {number}: expected at most {most} certificates, found more")
            found += 1
            yield b"".join(block)
            block = None
        elif line:
            block.append(line)
        else:
            raise PemError(f"line {number}: expected base64 in certificate {found + 1}, found an empty line")
    if block is not None:
        raise PemError(f"certificate {found + 1}: expected it to end, found the end of the file (truncated)")


def _label_or_other(line: bytes) -> str:
    """What an error may quote of an unexpected line: a PEM label, never other content, which may be a key."""
    return line.decode() if _LABEL.fullmatch(line) else "other text"


def _parse_block(encoded: bytes, number: int) -> Certificate:
    try:
        der = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise PemError(f"certificate {number}: expected base64, found text that is none ({error})") from None
    # Python before 3.13 accepts padding after a complete group, for which OpenSSL refuses the whole file.
    padding, needed = encoded.count(b"="), -len(der) % 3
    if padding != needed:
        raise PemError(f"certificate {number}: expected base64, found {padding} characters of padding for {needed}")
    try:
        certificate = _read(der)
        fault = _fault(certificate)
    except Exception as error:  # noqa: BLE001 - on malformed input the parser raises a dozen unrelated kinds
        found = f"{type(error).__name__}: {error}"
        raise PemError(f"certificate {number}: expected one that parses, found {found}") from None
    if fault:
        raise PemError(f"certificate {number}: {fault}")
    return certificate


def _read(der: bytes) -> Certificate:
    """Parse a certificate whole: the library reads most parts on first use, where an error would be a surprise.

    On malformed input the library raises ValueError, TypeError, KeyError, InvalidVersion, DuplicateExtension,
    UnsupportedGeneralNameType, or a Warning where a process turned warnings into errors.
    """
    certificate = x509.load_der_x509_certificate(der)
    _ = certificate.subject, certificate.issuer, certificate.extensions
    _ = not_before(certificate), not_after(certificate)
    return certificate


def _fault(certificate: Certificate) -> str | None:
    """The fault of a certificate that other parsers refuse, or that this library only warns about; None without one.

    Without this check, the verdict would depend on the process's warning filter and on the program that reads the file.
    A key of an unknown algorithm is no fault: the algorithm may be newer than this library, and every parser ignores
    such a certificate.
    """
    if certificate.serial_number <= 0:
        return f"expected a positive serial number (RFC 5280 4.1.2.2), found {certificate.serial_number}"
    for oid, (least, most) in _NAME_LENGTHS.items():
        for name in (certificate.subject, certificate.issuer):
            for attribute in name.get_attributes_for_oid(oid):
                length = len(str(attribute.value).encode())
                if not least <= length <= most:
                    wanted = f"{attribute.rfc4514_attribute_name} of {least} to {most} bytes (RFC 5280 A.1)"
                    return f"expected {wanted}, found {length}"
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm as error:
        on_curve = certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.EC_PUBLIC_KEY
        return f"expected a curve that every workload can read, found {error}" if on_curve else None
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name not in _EC_CURVES:
        return f"expected a curve that every workload can read, found {key.curve.name}"
    if isinstance(key, RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        return f"expected an RSA key of at least {_LEAST_RSA_BITS} bits, found {key.key_size}"
    return None


def to_pem(certificates: Sequence[Certificate]) -> bytes:
    """The PEM file of these certificates, in this order."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def fingerprint(certificate: Certificate) -> str:
    """SHA-256 of the DER, in lower-case hex."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def key_identifier(certificate: Certificate) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, in lower-case hex."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def not_before(certificate: Certificate) -> int:
    """Start of the validity, in Unix seconds."""
    return int(certificate.not_valid_before_utc.timestamp())


def not_after(certificate: Certificate) -> int:
    """End of the validity (the last second that counts, RFC 5280 4.1.2.5), in Unix seconds."""
    return int(certificate.not_valid_after_utc.timestamp())


def is_valid_at(certificate: Certificate, now: int) -> bool:
    """Whether ``now`` (Unix seconds) lies in the validity, both ends included (RFC 5280 4.1.2.5)."""
    return not_before(certificate) <= now <= not_after(certificate)


def is_ca(certificate: Certificate) -> bool:
    """Whether the certificate may sign certificates: BasicConstraints say CA and KeyUsage says keyCertSign.

    A certificate without the KeyUsage extension is no CA. RFC 5280 4.2.1.3 requires the extension of a CA, and peers
    differ on CAs without it: Go and OpenSSL by default accept them, OpenSSL's strict mode (Python's default from 3.13
    on) and ``cryptography`` refuse them. An anchor must work for every workload or for none.
    """
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return basic.ca and usage.key_cert_sign


def _claims_ca(certificate: Certificate) -> bool:
    """Whether BasicConstraints say CA, with or without the KeyUsage that a CA needs."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether ``certificate`` names ``issuer`` as its issuer and is signed with the issuer's key (RFC 5280 6.1.3)."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Leaf:
    """A workload's certificate with its chain and key, as read from ``tls.crt`` and ``tls.key``."""

    certificate: Certificate
    """The first certificate of ``tls.crt``."""
    chain: tuple[Certificate, ...]
    """The other certificates of ``tls.crt``, in its order."""
    certificate_pem: bytes = field(repr=False)
    """The exact bytes of ``tls.crt``."""
    key_pem: bytes = field(repr=False)
    """The exact bytes of ``tls.key``: a secret."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the leaf certificate's DER, in lower-case hex."""
        return fingerprint(self.certificate)


def parse_leaf(certificate_pem: bytes, key_pem: bytes) -> Leaf:
    """Read a leaf (the first certificate), its chain (up to 9 more), and its unencrypted private key.

    Raises:
        LeafRejected: a file that does not parse (``pem``, ``key``), a key that TLS cannot use (``pem``, ``key``), a CA
            as leaf (``ca``), or a key of another certificate (``key_mismatch``).
    """
    try:
        certificates = parse_certificates(certificate_pem, most=10)
    except PemError as error:
        raise LeafRejected("pem", f"tls.crt: {error}") from None
    try:
        leaf_key = certificates[0].public_key()
    except UnsupportedAlgorithm as error:
        raise LeafRejected("pem", f"tls.crt: expected a key of a known algorithm, found {error}") from None
    key = _read_key(key_pem)
    if key.public_key() != leaf_key:
        raise LeafRejected("key_mismatch", "tls.key: expected the key of tls.crt's first certificate, found another")
    if not isinstance(key, _LEAF_KEYS):  # neither OpenSSL nor Go serves TLS with another kind
        raise LeafRejected("key", f"tls.key: expected an RSA, EC or Ed25519 key, found {type(key).__name__}")
    if _claims_ca(certificates[0]):
        raise LeafRejected("ca", "tls.crt: expected a leaf certificate first, found a CA")
    return Leaf(certificates[0], certificates[1:], certificate_pem, key_pem)


def _read_key(pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, Warning):
        # The library's message is left out: it may quote the input.
        raise LeafRejected("key", "tls.key: expected an unencrypted PEM private key, found none that parses") from None


def leaf_issuer(leaf: Leaf, anchors: Sequence[Certificate], withdrawn: Collection[str], now: int) -> Certificate:
    """The CA that directly issued the leaf, where a valid chain leads from that CA to one of ``anchors``.

    Every CA of the chain, the anchor too, must be valid at ``now`` (Unix seconds) and must not have more CAs below it
    than its pathLenConstraint allows (Go checks anchors as well). ``withdrawn`` are fingerprints (SHA-256 of the DER,
    lower-case hex) of CAs that no chain may pass through; a root above such a CA is still an anchor.

    Raises:
        LeafRejected: the leaf is outside its validity (``expired``, ``not_yet_valid``), or no such chain exists
            (``chain``).
    """
    begin, end = not_before(leaf.certificate), not_after(leaf.certificate)
    if now > end:
        raise LeafRejected("expired", f"leaf: expected it to be valid at {now}, it ended at {end}")
    if now < begin:
        raise LeafRejected("not_yet_valid", f"leaf: expected it to be valid at {now}, it begins at {begin}")
    usable = {fingerprint(ca): ca for ca in (*anchors, *leaf.chain) if is_ca(ca) and is_valid_at(ca, now)}
    for sha256 in withdrawn:
        usable.pop(sha256, None)
    trusted = {fingerprint(anchor) for anchor in anchors}
    for issuer in usable.values():
        if issued_by(leaf.certificate, issuer) and _leads_to(trusted, issuer, usable):
            return issuer
    raise LeafRejected(
        "chain",
        f"leaf: expected a chain to one of {len(anchors)} anchors, found none for issuer "
        f"{leaf.certificate.issuer.rfc4514_string()[:200]}",
    )


def _leads_to(trusted: Collection[str], issuer: Certificate, usable: dict[str, Certificate]) -> bool:
    """Whether a path leads from ``issuer`` to a trusted CA.

    Breadth first and each CA once: CAs that sign each other make no endless loop, and the shortest path to each CA is
    tried, which leaves the fewest CAs below it.
    """
    level, seen, below = {fingerprint(issuer): issuer}, set[str](), 0
    while level:
        level = {sha256: ca for sha256, ca in level.items() if _allows_below(ca, below)}
        if not level.keys().isdisjoint(trusted):
            return True
        seen |= level.keys()
        level = {
            sha256: above
            for sha256, above in usable.items()
            if sha256 not in seen and any(issued_by(ca, above) for ca in level.values())
        }
        below += 1
    return False


def _allows_below(ca: Certificate, below: int) -> bool:
    """Whether pathLenConstraint allows ``below`` CAs between this CA and the leaf (RFC 5280 4.2.1.9)."""
    longest = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    return longest is None or below <= longest
