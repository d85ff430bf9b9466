"""A small authority for tests: keys, CAs, leaves and signed bundles, whole ones and every broken kind."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tidemark import note
from tidemark.bundle import NO_PREVIOUS, Anchor, Bundle, Cause, Role, Statement
from tidemark.certificates import fingerprint, key_identifier, not_after, not_before, to_pem
from tidemark.epoch import EpochClock
from tidemark.note import Signer
from tidemark.trust import Trust

DOMAIN = "bus.test"
CLOCK = EpochClock(epoch_seconds=1200, validity_seconds=4800, prepare_seconds=300)
TOLERANCE = 5


@dataclass(frozen=True)
class IssuingCa:
    """A CA with its key; ``epoch`` is None for roots."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    epoch: int | None

    @property
    def sha256(self) -> str:
        return fingerprint(self.certificate)


@dataclass(frozen=True)
class LeafFiles:
    """``tls.crt`` (leaf, then its issuer) and ``tls.key``."""

    crt: bytes
    key: bytes

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self.crt)[0]

    @property
    def sha256(self) -> str:
        return fingerprint(self.certificate)


def _moment(instant: int) -> datetime:
    return datetime.fromtimestamp(instant, UTC)


def _certificate(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, validity: tuple[int, int], issuer: IssuingCa | None
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(validity[0]))
        .not_valid_after(_moment(validity[1]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    return builder.sign(issuer.key if issuer else key, hashes.SHA256())


class BundleFactory:
    """Makes what an authority would publish, at the instant ``now`` (Unix seconds) that it was given."""

    def __init__(self, now: int, *, domain: str = DOMAIN, clock: EpochClock = CLOCK) -> None:
        self.now = now
        self.domain = domain
        self.clock = clock
        self.epoch = clock.epoch_at(now)
        self.include_root = True
        self.signer = Signer.generate(f"{domain}/a")
        self.root = self._root()
        self.ca = cache(self._ca)

    def trust(self, **changes: object) -> Trust:
        trust = Trust(self.domain, (self.signer.verifier,), tolerance_seconds=TOLERANCE)
        return replace(trust, **changes)  # type: ignore[arg-type]  # test shorthand for any of its fields

    def _root(self) -> IssuingCa:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.domain} root")])
        validity = (self.now - 86400, self.now + 365 * 86400)
        return IssuingCa(_certificate(subject, key, validity, None), key, None)

    def _ca(self, epoch: int) -> IssuingCa:
        """The CA of ``epoch``, the same one at each call."""
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.domain),
                x509.NameAttribute(NameOID.COMMON_NAME, f"intermediate epoch {epoch}"),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, hashlib.sha256(spki).hexdigest()[:16]),
            ]
        )
        begin = min(self.now, self.clock.prepare_at(epoch)) - TOLERANCE
        certificate = _certificate(subject, key, (begin, self.clock.expiry(epoch)), self.root)
        assert key_identifier(certificate).startswith(hashlib.sha256(spki).hexdigest())
        return IssuingCa(certificate, key, epoch)

    def leaf(self, ca: IssuingCa | None = None, *, begin: int | None = None, end: int | None = None) -> LeafFiles:
        """A leaf for 127.0.0.1 that serves and connects; by the current epoch's CA unless said otherwise."""
        ca = ca or self.ca(self.epoch)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "workload")]))
            .issuer_name(ca.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_moment(self.now - TOLERANCE if begin is None else begin))
            .not_valid_after(_moment(self.now + 2400 if end is None else end))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost")]),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(ca.key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return LeafFiles(to_pem([certificate, ca.certificate]), pem)

    def ca_pem(self, epochs: Sequence[int]) -> bytes:
        """``ca.crt`` of these epochs' CAs, newest first, then the root."""
        return to_pem([ca.certificate for ca in self._anchors(epochs)])

    def _anchors(self, epochs: Sequence[int]) -> list[IssuingCa]:
        return [self.ca(epoch) for epoch in epochs] + ([self.root] if self.include_root else [])

    def statement(self, sequence: int, epochs: Sequence[int] | None = None, *, ca: bytes | None = None) -> Statement:
        """A statement over the CAs of ``epochs`` (by default the current and the one before), newest first."""
        epochs = list(epochs or (self.epoch, self.epoch - 1))
        anchors = [
            Anchor(
                Role.ROOT if c.epoch is None else Role.INTERMEDIATE,
                c.epoch,
                c.sha256,
                not_before(c.certificate),
                not_after(c.certificate),
            )
            for c in self._anchors(epochs)
        ]
        return Statement(
            trust_domain=self.domain,
            sequence=sequence,
            clock=self.clock,
            epoch=epochs[0],
            cause=Cause.ROTATION,
            issued_at=self.now,
            next_update=self.clock.prepare_at(self.clock.newest_due(self.now) + 1),
            expires_at=anchors[0].not_after,
            anchors=tuple(anchors),
            withdrawn=(),
            ca_sha256=hashlib.sha256(self.ca_pem(epochs) if ca is None else ca).hexdigest(),
            previous=NO_PREVIOUS,
        )

    def bundle(
        self,
        sequence: int,
        epochs: Sequence[int] | None = None,
        *,
        ca: bytes | None = None,
        signer: Signer | None = None,
        **changes: object,
    ) -> Bundle:
        """A signed bundle. ``ca`` replaces the bytes of ``ca.crt`` (the statement is about them), ``changes`` replace
        fields of the statement, ``signer`` the key."""
        epochs = list(epochs or (self.epoch, self.epoch - 1))
        statement = self.statement(sequence, epochs, ca=ca)
        statement = replace(statement, **changes)  # type: ignore[arg-type]  # test shorthand for any of its fields
        return self.sign(statement, self.ca_pem(epochs) if ca is None else ca, signer)

    def sign(self, statement: Statement, ca: bytes, signer: Signer | None = None) -> Bundle:
        return Bundle(ca, bytes(note.sign(statement.text(), [signer or self.signer])))
