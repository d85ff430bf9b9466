"""A small authority for tests: keys, CAs, leaves and signed bundles, valid and broken, with new keys at each run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.harness.pki.certificates import Lifetime, SigningCa, ca_certificate, common_name, key_pem, leaf_certificate
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

    @property
    def issuer(self) -> SigningCa:
        return SigningCa(self.certificate.subject, self.key)


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


class BundleFactory:
    """Makes what an authority would publish at the instant ``now`` (Unix seconds)."""

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
        issuer = SigningCa(common_name(f"{self.domain} root"), key)
        validity = Lifetime(self.now - 86400, self.now + 365 * 86400)
        return IssuingCa(ca_certificate(issuer, validity), key, None)

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
        validity = Lifetime(begin, self.clock.expiry(epoch))
        certificate = ca_certificate(SigningCa(subject, key), validity, self.root.issuer, path_length=0)
        assert key_identifier(certificate).startswith(hashlib.sha256(spki).hexdigest())
        return IssuingCa(certificate, key, epoch)

    def leaf(self, ca: IssuingCa | None = None, *, begin: int | None = None, end: int | None = None) -> LeafFiles:
        """A leaf for 127.0.0.1 for servers and clients; by default signed by the CA of the current epoch."""
        ca = ca or self.ca(self.epoch)
        key = ec.generate_private_key(ec.SECP256R1())
        validity = Lifetime(self.now - TOLERANCE if begin is None else begin, self.now + 2400 if end is None else end)
        certificate = leaf_certificate("workload", key, validity, ca.issuer)
        return LeafFiles(to_pem([certificate, ca.certificate]), key_pem(key))

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
