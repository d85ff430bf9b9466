"""A small authority with fixed keys: the same certificates and notes at every run, valid and broken."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from tests.harness.pki.certificates import Key, identifiers, key_pem, usage
from tidemark import note
from tidemark.bundle import FORMAT, NO_PREVIOUS, Bundle, digest_of
from tidemark.epoch import EpochClock
from tidemark.note import Signer
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, Known, Mark, VerifiedBundle, verify

DOMAIN = "bus.test"
CLOCK = EpochClock(epoch_seconds=1200, validity_seconds=4800, prepare_seconds=300)
TOLERANCE = 600
EPOCH = 1_480_000
NOW = CLOCK.start(EPOCH) + 60
SEQUENCE = 7


def signer(label: str) -> Signer:
    """The signing key of this label; always the same one."""
    seed = hashlib.sha256(label.encode()).digest()
    return Signer(f"{DOMAIN}/{label}", ed25519.Ed25519PrivateKey.from_private_bytes(seed))


SIGNER, SECOND, STRANGER = signer("a"), signer("b"), signer("stranger")
TRUST = Trust(DOMAIN, (SIGNER.verifier, SECOND.verifier), tolerance_seconds=TOLERANCE)


def ec_key(label: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """The P-256 key (or one on ``curve``) of this label; always the same one."""
    return ec.derive_private_key(
        int.from_bytes(hashlib.sha256(label.encode()).digest()[:20]) + 1, curve or ec.SECP256R1()
    )


def iso(instant: int) -> str:
    """RFC 3339, written without the code under test."""
    return datetime.fromtimestamp(instant, UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class MadeCertificate:
    """A certificate with its key; ``epoch`` is None for roots and leaves."""

    certificate: x509.Certificate
    key: Key
    epoch: int | None = None

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


@dataclass(frozen=True)
class Recipe:
    """A certificate to be made; by default a CA that is valid around NOW, signed by itself.

    One field for each property that a test changes alone.
    """

    name: str
    above: MadeCertificate | None = None
    key: Key | None = None
    begin: int = NOW - 3600
    end: int = NOW + 3600
    ca: bool = True
    path_length: int | None = None
    usages: tuple[str, ...] | None = ("key_cert_sign", "crl_sign")
    serial: int | None = None
    attributes: tuple[x509.NameAttribute[str], ...] = ()
    extensions: tuple[x509.ExtensionType, ...] = ()
    constrained: bool = True  # whether BasicConstraints are there at all
    identified: bool = True  # whether it names its own key and the one that signs it
    epoch: int | None = None

    def make(self) -> MadeCertificate:
        key = self.key or ec_key(self.name)
        subject = x509.Name([*self.attributes, x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        serial = self.serial or int.from_bytes(hashlib.sha256(repr(self.name).encode()).digest()[:15]) + 1
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.above.certificate.subject if self.above else subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(datetime.fromtimestamp(self.begin, UTC))
            .not_valid_after(datetime.fromtimestamp(self.end, UTC))
        )
        if self.constrained:
            constraints = x509.BasicConstraints(ca=self.ca, path_length=self.path_length)
            builder = builder.add_extension(constraints, critical=True)
        if self.usages is not None:
            builder = builder.add_extension(usage(*self.usages), critical=True)
        signing = self.above.key if self.above else key
        for extension in (*(identifiers(key, signing) if self.identified else ()), *self.extensions):
            builder = builder.add_extension(extension, critical=False)
        if isinstance(signing, ed25519.Ed25519PrivateKey):
            return MadeCertificate(builder.sign(signing, None), key, self.epoch)
        fixed = True if isinstance(signing, ec.EllipticCurvePrivateKey) else None
        return MadeCertificate(builder.sign(signing, hashes.SHA256(), ecdsa_deterministic=fixed), key, self.epoch)


ROOT = Recipe("bus.test root", begin=NOW - 30 * 86400, end=NOW + 365 * 86400).make()
OTHER_ROOT = Recipe("another root", begin=NOW - 30 * 86400, end=NOW + 365 * 86400).make()


@cache
def intermediate(epoch: int, above: MadeCertificate = ROOT, label: str = "") -> MadeCertificate:
    """The CA of an epoch as the authority makes it on schedule."""
    key = ec_key(f"epoch {epoch}{label}")
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    attributes = (
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, DOMAIN),
        x509.NameAttribute(NameOID.SERIAL_NUMBER, hashlib.sha256(spki).hexdigest()[:16]),
    )
    return Recipe(
        f"intermediate epoch {epoch}",
        above,
        key,
        begin=CLOCK.prepare_at(epoch) - TOLERANCE,
        end=CLOCK.expiry(epoch),
        path_length=0,
        attributes=attributes,
        epoch=epoch,
    ).make()


def leaf_recipe(above: MadeCertificate, name: str = "workload") -> Recipe:
    """A leaf of 40 minutes from NOW on, with an EC key of its own."""
    return Recipe(name, above, begin=NOW - TOLERANCE, end=NOW + 2400, ca=False, usages=("digital_signature",))


CAS = (*(intermediate(epoch) for epoch in range(EPOCH, EPOCH - 4, -1)), ROOT)
"""The trusted CAs at NOW, newest first, then the root."""


def pem(cas: Sequence[MadeCertificate]) -> bytes:
    return b"".join(ca.pem for ca in cas)


def block(der: bytes, width: int = 64) -> bytes:
    """A PEM block around any bytes."""
    encoded = base64.b64encode(der)
    lines = [encoded[i : i + width] for i in range(0, len(encoded), width)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def anchor(ca: MadeCertificate) -> dict[str, Any]:
    """An entry of ``anchors``."""
    role: dict[str, Any] = {"role": "root"} if ca.epoch is None else {"role": "intermediate", "epoch": ca.epoch}
    return role | {
        "sha256": ca.sha256,
        "not_before": iso(int(ca.certificate.not_valid_before_utc.timestamp())),
        "not_after": iso(int(ca.certificate.not_valid_after_utc.timestamp())),
    }


def fields(cas: Sequence[MadeCertificate] = CAS, ca_crt: bytes | None = None) -> dict[str, Any]:
    """A statement's JSON, written without the code under test."""
    return {
        "trust_domain": DOMAIN,
        "sequence": SEQUENCE,
        "epoch": cas[0].epoch,
        "epoch_seconds": CLOCK.epoch_seconds,
        "validity_seconds": CLOCK.validity_seconds,
        "prepare_seconds": CLOCK.prepare_seconds,
        "reason": "rotation",
        "issued_at": iso(NOW - 30),
        "next_update": iso(CLOCK.prepare_at(EPOCH + 1)),
        "expires_at": iso(int(cas[0].certificate.not_valid_after_utc.timestamp())),
        "anchors": [anchor(ca) for ca in cas],
        "withdrawn": [],
        "ca_sha256": hashlib.sha256(pem(cas) if ca_crt is None else ca_crt).hexdigest(),
        "previous": NO_PREVIOUS,
    }


def text_of(statement: dict[str, Any]) -> str:
    return f"{FORMAT}\n{json.dumps(statement, separators=(',', ':'))}\n"


def signed(text: str, signers: Sequence[Signer] = (SIGNER,)) -> bytes:
    return bytes(note.sign(text, signers))


def bundle(cas: Sequence[MadeCertificate] = CAS, *, ca_crt: bytes | None = None, **changes: Any) -> Bundle:
    """A signed bundle; ``ca_crt`` replaces the file that the statement is about, ``changes`` replace its fields."""
    ca_crt = pem(cas) if ca_crt is None else ca_crt
    return Bundle(ca_crt, signed(text_of(fields(cas, ca_crt) | changes)))


def verified(candidate: Bundle, now: int = NOW) -> VerifiedBundle:
    return verify(candidate, TRUST, Known(), now)


INSTALLED = bundle(
    (*(intermediate(epoch) for epoch in range(EPOCH - 1, EPOCH - 5, -1)), ROOT),
    sequence=SEQUENCE - 1,
    issued_at=iso(NOW - CLOCK.epoch_seconds),
)
"""What an agent has in place at NOW when the bundle of this epoch arrives."""

KNOWN = Known(
    highest=Mark(SEQUENCE - 1, digest_of(note.parse(INSTALLED.note).text)),
    installed=verified(INSTALLED, NOW - CLOCK.epoch_seconds),
    shown=SEQUENCE - 1,
)


@dataclass
class BundleDraft:
    """A candidate before it is made, and what it is verified with; a fault changes one of the fields."""

    cas: list[MadeCertificate] = field(default_factory=lambda: list(CAS))
    ca_crt: Callable[[bytes], bytes] = bytes  # changes ca.crt before the statement is made over it
    statement: Callable[[dict[str, Any]], dict[str, Any]] = dict
    text: Callable[[str], str] = str
    signers: tuple[Signer, ...] = (SIGNER,)
    sent: Callable[[Bundle], Bundle] = lambda made: made  # changes what was signed
    trust: Trust = TRUST
    known: Known = KNOWN
    now: int = NOW

    def bundle(self) -> Bundle:
        ca_crt = self.ca_crt(pem(self.cas))
        text = self.text(text_of(self.statement(fields(self.cas, ca_crt))))
        return self.sent(Bundle(ca_crt, signed(text, self.signers)))

    def verify(self) -> VerifiedBundle:
        return verify(self.bundle(), self.trust, self.known, self.now)

    def rejected(self) -> BundleRejected:
        """The rejection of this draft; fails where the draft is accepted."""
        try:
            self.verify()
        except BundleRejected as refused:
            return refused
        raise AssertionError("expected this draft to be rejected, it was accepted")
