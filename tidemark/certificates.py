"""PEM and X.509 questions that both sides ask; pure.

Parsing is stricter than OpenSSL's and Go's on purpose: Go's ``AppendCertsFromPEM`` silently skips a block that does not
parse or has PEM headers, so a file that a strict parser did not read whole may be half a trust store elsewhere.
"""

import base64
import binascii
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

Certificate = x509.Certificate

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_LONGEST_PATH = 6


class PemError(ValueError):
    """A PEM file holds something else than whole certificates; the message names the block and what was found."""


class LeafRejected(ValueError):
    """A leaf does not fit; ``reason`` is one word for metrics, the message says what was expected and found."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_certificates(pem: bytes, most: int = 64) -> tuple[Certificate, ...]:
    """Read every certificate of a PEM file (RFC 7468).

    Between the blocks only white space and comment lines (``#``) are allowed; inside one only base64.

    Raises:
        PemError: anything else in the file, a block that does not parse, none, or more than ``most``.
    """
    certificates: list[Certificate] = []
    block: list[bytes] | None = None
    for number, raw in enumerate(pem.split(b"\n"), start=1):
        line = raw.rstrip(b" \t\r")
        if block is None:
            if line == _BEGIN:
                block = []
            elif line and not line.startswith(b"#"):
                raise PemError(f"line {number}: expected a CERTIFICATE block, found {_shown(line)}")
        elif line == _END:
            if len(certificates) == most:
                raise PemError(f"line {number}: expected at most {most} certificates, found more")
            certificates.append(_parse_block(b"".join(block), len(certificates) + 1))
            block = None
        else:
            block.append(line)
    if block is not None:
        raise PemError(
            f"certificate {len(certificates) + 1}: expected it to end, found the end of the file (truncated)"
        )
    if not certificates:
        raise PemError("expected a certificate or more, found none")
    return tuple(certificates)


def _shown(line: bytes) -> str:
    """What an error may show of a line that should not be there: only a PEM label, never content (it may be a key)."""
    return line.decode() if line.startswith(b"-----BEGIN ") and line.isascii() and len(line) < 60 else "other text"


def _parse_block(encoded: bytes, number: int) -> Certificate:
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(encoded, validate=True))
        # These are parsed on first use only: use them here, so that nothing malformed surprises anyone later.
        _ = certificate.subject, certificate.issuer, certificate.extensions
    except (binascii.Error, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise PemError(f"certificate {number}: expected one that parses, found {error}") from None
    return certificate


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
    """Whether ``now`` lies in the validity."""
    return not_before(certificate) <= now <= not_after(certificate)


def is_ca(certificate: Certificate) -> bool:
    """Whether the certificate may sign certificates (RFC 5280 4.2.1.9 and 4.2.1.3)."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return basic.ca and usage.key_cert_sign


def issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether ``issuer``'s name and key are the ones that signed ``certificate``."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Leaf:
    """A workload's certificate with its chain and key, as read from ``tls.crt`` and ``tls.key``.

    ``certificate_pem`` and ``key_pem`` are the exact bytes of the two files; ``repr`` hides them.
    """

    certificate: Certificate
    chain: tuple[Certificate, ...]
    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """Fingerprint of the leaf certificate."""
        return fingerprint(self.certificate)


def parse_leaf(certificate_pem: bytes, key_pem: bytes) -> Leaf:
    """Read a leaf (first), its chain, and its unencrypted private key.

    Raises:
        LeafRejected: a file that does not parse (``pem``, ``key``), a CA as leaf (``ca``), or a key of another
            certificate (``key_mismatch``).
    """
    try:
        certificates = parse_certificates(certificate_pem, most=10)
    except PemError as error:
        raise LeafRejected("pem", f"tls.crt: {error}") from None
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
        of_leaf = certificates[0].public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's message is left out: it may quote the input.
        raise LeafRejected("key", "tls.key: expected an unencrypted PEM private key, found none that parses") from None
    if key.public_key() != of_leaf:
        raise LeafRejected("key_mismatch", "tls.key: expected the key of tls.crt's first certificate, found another")
    if is_ca(certificates[0]):
        raise LeafRejected("ca", "tls.crt: expected a leaf certificate first, found a CA")
    return Leaf(certificates[0], certificates[1:], certificate_pem, key_pem)


def leaf_issuer(leaf: Leaf, anchors: Sequence[Certificate], withdrawn: Collection[str], now: int) -> Certificate:
    """The CA that directly issued the leaf, where a valid chain leads from it to one of ``anchors``.

    ``withdrawn`` are fingerprints of CAs that no chain may pass through, though a root above them is still an anchor.

    Raises:
        LeafRejected: the leaf is outside its validity (``expired``, ``not_yet_valid``), or no such chain exists
            (``chain``).
    """
    if now > not_after(leaf.certificate):
        raise LeafRejected(
            "expired", f"leaf: expected it to be valid at {now}, it ended at {not_after(leaf.certificate)}"
        )
    if now < not_before(leaf.certificate):
        begin = not_before(leaf.certificate)
        raise LeafRejected("not_yet_valid", f"leaf: expected it to be valid at {now}, it begins at {begin}")
    trusted = {fingerprint(anchor) for anchor in anchors}
    usable = [ca for ca in (*anchors, *leaf.chain) if is_ca(ca) and is_valid_at(ca, now)]
    usable = [ca for ca in usable if fingerprint(ca) not in withdrawn]

    def leads_to_anchor(ca: Certificate, left: int) -> bool:
        if fingerprint(ca) in trusted:
            return True
        return left > 0 and any(issued_by(ca, above) and leads_to_anchor(above, left - 1) for above in usable)

    for issuer in usable:
        if issued_by(leaf.certificate, issuer) and leads_to_anchor(issuer, _LONGEST_PATH):
            return issuer
    raise LeafRejected(
        "chain",
        f"leaf: expected a chain to one of {len(anchors)} anchors, found none for issuer "
        f"{leaf.certificate.issuer.rfc4514_string()}",
    )
