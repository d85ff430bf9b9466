"""Private keys, and CAs with their keys, in files of mode 0600; optionally encrypted with a passphrase.

Making keys and touching files blocks: from a coroutine, call these through ``asyncio.to_thread``.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from authority.errors import StateUnusable
from authority.support import atomic_files
from tidemark.certificates import Certificate, PemError, parse_certificates, to_pem

CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""The kinds of keys with which a CA signs."""

CERTIFICATE_FILE = "ca.crt"
KEY_FILE = "ca.key"


class KeystoreError(StateUnusable):
    """A key or CA cannot be read or written; the message names the file and what to do, and never shows a key."""


class KeyType(StrEnum):
    """The kinds of keys that roots and intermediates may have; leaves always have EC P-256."""

    EC_P256 = "ec-p256"
    RSA_4096 = "rsa-4096"

    def generate(self) -> CaKey:
        """Make a fresh key (RSA: seconds of computing)."""
        if self is KeyType.RSA_4096:
            return rsa.generate_private_key(public_exponent=65537, key_size=4096)
        return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True)
class CaPair:
    """A CA's certificate and key."""

    certificate: Certificate
    key: CaKey = field(repr=False)


def key_pem(key: CaKey | ed25519.Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS#8 in PEM, encrypted where there is a passphrase."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def create_pair(directory: Path, pair: CaPair, passphrase: bytes | None) -> None:
    """Write a CA to a directory that appears as a whole. Raises KeystoreError, also where the directory exists."""
    files = {CERTIFICATE_FILE: to_pem([pair.certificate]), KEY_FILE: key_pem(pair.key, passphrase)}
    try:
        atomic_files.create_directory(directory, files)
    except OSError as error:
        raise KeystoreError(f"{directory}: expected to write a CA there, found {error.strerror}") from None


def read_certificate(directory: Path) -> Certificate:
    """Read a CA's certificate alone, which needs no passphrase. Raises KeystoreError."""
    try:
        return parse_certificates(_read(directory / CERTIFICATE_FILE), most=1)[0]
    except PemError as error:
        raise KeystoreError(f"{directory / CERTIFICATE_FILE}: {error}") from None


def read_pair(directory: Path, passphrase: bytes | None) -> CaPair:
    """Read a CA back. Raises KeystoreError."""
    certificate = read_certificate(directory)
    key = _load(directory / KEY_FILE, passphrase)
    if not isinstance(key, CaKey) or key.public_key() != certificate.public_key():
        raise KeystoreError(f"{directory / KEY_FILE}: expected the key of {CERTIFICATE_FILE} beside it, found another")
    return CaPair(certificate, key)


def create_signing_key(path: Path, passphrase: bytes | None) -> None:
    """Make an Ed25519 key in a new file. Raises KeystoreError, also where the file exists."""
    try:
        atomic_files.create_file(path, key_pem(ed25519.Ed25519PrivateKey.generate(), passphrase), atomic_files.SECRET)
    except OSError as error:
        raise KeystoreError(f"{path}: expected to write a key there, found {error.strerror}") from None


def read_signing_key(path: Path, passphrase: bytes | None) -> ed25519.Ed25519PrivateKey:
    """Read an Ed25519 key back. Raises KeystoreError."""
    key = _load(path, passphrase)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeystoreError(f"{path}: expected an Ed25519 key, found {type(key).__name__}")
    return key


def _load(path: Path, passphrase: bytes | None) -> object:
    try:
        return serialization.load_pem_private_key(_read(path), passphrase)
    except TypeError:
        # The library raises TypeError where the key is encrypted and no passphrase was given, or the other way round.
        found = "a key that is not encrypted" if passphrase else "an encrypted key, and no passphrase to open it"
        expected = "a key encrypted with the passphrase given" if passphrase else "a key that is not encrypted"
        raise KeystoreError(f"{path}: expected {expected}, found {found}") from None
    except (ValueError, UnsupportedAlgorithm):
        # The library's message is left out: it may quote the input.
        opened = " that the passphrase given opens" if passphrase else ""
        raise KeystoreError(f"{path}: expected a private key in PEM{opened}, found none") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeystoreError(f"{path}: expected a readable file, found {error.strerror}") from None
