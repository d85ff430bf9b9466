"""Signed notes: a text with Ed25519 signatures (RFC 8032) below it, as in C2SP ``signed-note`` and Go's ``sumdb/note``.

A note is the text (UTF-8, ending in a newline), an empty line, and one line for each signature:
``— <key name> <base64(4-byte key id || signature)>``. The key id is the first four bytes of
SHA-256(name || 0x0A || 0x01 || public key). See https://c2sp.org/signed-note and
https://pkg.go.dev/golang.org/x/mod/sumdb/note.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
MAX_SIGNATURES = 100
_PREFIX = "— "
_PRIVATE = "PRIVATE+KEY+"
_SIGNER_KEY = "signer key"
_NOT_TEXT = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


class NoteError(ValueError):
    """The bytes are no signed note, or a text is no key; the message says what was expected and found."""


class SignatureError(NoteError):
    """No trusted key signed the note, or a signature that claims to be by a trusted key does not verify."""


def key_id(name: str, public_key: bytes) -> bytes:
    """The 4-byte id of an Ed25519 key: a hint to the key that signed, not a security property."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or not c.isprintable() for c in name)


def _checked_name(name: str) -> str:
    if not _is_name(name):
        raise NoteError(f"key name {name[:80]!r}: expected a printable name without white space and '+'")
    return name


def _decoded(text: str, what: str) -> bytes:
    """Decode base64, in its canonical form only: every note has exactly one spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError(f"{what}: expected base64, found {len(text)} characters that are not ({error})") from None
    if base64.b64encode(data).decode() != text:
        raise NoteError(f"{what}: expected canonical base64, found stray bits or padding")
    return data


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key that notes are checked with.

    Raises:
        NoteError: a name that notes cannot hold, or a key of another size.
    """

    name: str
    """Printable, without white space and ``+``."""
    public_key: bytes
    """32 raw bytes (RFC 8032 5.1.5)."""

    def __post_init__(self) -> None:
        _checked_name(self.name)
        if len(self.public_key) != 32:
            raise NoteError(f"key {self.name}: expected 32 bytes of Ed25519 public key, found {len(self.public_key)}")

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that signature lines carry for this key."""
        return key_id(self.name, self.public_key)

    @property
    def hash(self) -> str:
        """The key id as 8 lower-case hex digits, for people to compare."""
        return self.key_id.hex()

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """Read ``name+hex8(key id)+base64(0x01 || public key)``.

        Raises:
            NoteError: another form, another algorithm, or a key id that does not belong to the key.
        """
        name, given_id, data = _key_parts(text, "verifier key")
        verifier = cls(name, data)
        if verifier.hash != given_id:
            raise NoteError(f"verifier key {name}: expected key id {verifier.hash}, found {given_id}")
        return verifier

    def __str__(self) -> str:
        return f"{self.name}+{self.hash}+{base64.b64encode(ED25519 + self.public_key).decode()}"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` (64 bytes) is this key's over ``message``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key that notes are signed with; ``repr`` leaves the key out.

    Raises:
        NoteError: a name that notes cannot hold.
    """

    name: str
    private_key: Ed25519PrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        _checked_name(self.name)

    @classmethod
    def generate(cls, name: str) -> "Signer":
        """Make a new key with this name."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> "Signer":
        """Read ``PRIVATE+KEY+name+hex8(key id)+base64(0x01 || 32-byte seed)``; errors never show the key.

        Raises:
            NoteError: another form, another algorithm, or a key id that does not belong to the key.
        """
        if not text.startswith(_PRIVATE):
            raise NoteError(f"signer key: expected it to start with {_PRIVATE}")
        name, given_id, seed = _key_parts(text[len(_PRIVATE) :], _SIGNER_KEY)
        signer = cls(name, Ed25519PrivateKey.from_private_bytes(seed))
        if signer.verifier.hash != given_id:
            raise NoteError(f"{_SIGNER_KEY}: expected key id {signer.verifier.hash}, found {given_id}")
        return signer

    def dump(self) -> str:
        """The private key's text form: a secret, for files of mode 0600."""
        seed = ED25519 + self.private_key.private_bytes_raw()
        return f"{_PRIVATE}{self.name}+{self.verifier.hash}+{base64.b64encode(seed).decode()}"

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self.private_key.public_key().public_bytes_raw())

    def sign(self, text: str) -> "Signature":
        """Sign the text of a note (which ends in a newline)."""
        return Signature(self.name, self.verifier.key_id, self.private_key.sign(text.encode()))


def _key_parts(text: str, what: str) -> tuple[str, str, bytes]:
    """Split ``name+hex8+base64`` into name, key id (hex) and the 32 key bytes.

    Errors about a signer key show none of it, not even its name: parts of a private key may stand in the wrong place.
    """
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise NoteError(f"{what}: expected name+id+key, found {len(parts)} of these three parts")
    name, given_id, encoded = parts
    if not _is_name(name) or not _KEY_ID.fullmatch(given_id):
        raise NoteError(f"{what}: expected a printable name and 8 lower-case hex digits before the key, found others")
    shown = what if what == _SIGNER_KEY else f"{what} {name}"
    data = _decoded(encoded, shown)
    if data[:1] != ED25519:
        raise NoteError(f"{shown}: expected algorithm 0x01 (Ed25519), found another")
    if len(data) != 33:
        raise NoteError(f"{shown}: expected 33 bytes, found {len(data)}")
    return name, given_id, data[1:]


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note."""

    name: str
    """The key's name."""
    key_id: bytes
    """4 bytes; see ``key_id`` of this module."""
    signature: bytes
    """64 bytes from an Ed25519 key; other algorithms have other sizes."""

    def line(self) -> str:
        """The line in the note, with its newline."""
        return f"{_PREFIX}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class SignedNote:
    """The parts of a note; no signature is checked yet."""

    text: str
    """Ends in a newline."""
    signatures: tuple[Signature, ...]
    """In the order of the note; at most ``MAX_SIGNATURES``."""

    def __bytes__(self) -> bytes:
        return (self.text + "\n" + "".join(s.line() for s in self.signatures)).encode()


def check_text(text: str) -> str:
    """Return ``text`` if it can be the text of a note.

    Raises:
        NoteError: no newline at the end, a control character other than a newline, or a lone surrogate (which UTF-8
            cannot write).
    """
    if not text.endswith("\n"):
        raise NoteError("note text: expected it to end in a newline")
    if _NOT_TEXT.search(text):
        raise NoteError("note text: expected no control characters but newlines, and no lone surrogates")
    return text


def sign(text: str, signers: Iterable[Signer]) -> SignedNote:
    """Sign ``text`` with each of ``signers``.

    Raises:
        NoteError: ``text`` cannot be the text of a note.
    """
    return SignedNote(check_text(text), tuple(signer.sign(text) for signer in signers))


def parse(note: bytes) -> SignedNote:
    """Split a note into text and signatures, without checking the signatures.

    Raises:
        NoteError: not UTF-8, control characters, no empty line before the signatures, or a malformed signature line.
    """
    try:
        decoded = note.decode()
    except UnicodeDecodeError as error:
        raise NoteError(f"note: expected UTF-8, found another byte at {error.start}") from None
    check_text(decoded)
    text, separator, lines = decoded.rpartition("\n\n")
    if not separator:
        raise NoteError("note: expected an empty line between text and signatures, found none")
    signature_lines = lines.removesuffix("\n").split("\n")
    if len(signature_lines) > MAX_SIGNATURES:
        raise NoteError(f"note: expected at most {MAX_SIGNATURES} signatures, found {len(signature_lines)}")
    return SignedNote(text + "\n", tuple(_signature(line) for line in signature_lines))


def _signature(line: str) -> Signature:
    name, separator, encoded = line.removeprefix(_PREFIX).partition(" ")
    if not line.startswith(_PREFIX) or not separator:
        raise NoteError("signature line: expected '— <key name> <base64>', found another form")
    data = _decoded(encoded, f"signature line of {_checked_name(name)}")
    if len(data) < 5:
        raise NoteError(f"signature line of {name}: expected a 4-byte key id and a signature, found {len(data)} bytes")
    return Signature(name, data[:4], data[4:])


def verify(note: SignedNote, verifiers: Sequence[Verifier], threshold: int = 1) -> tuple[Verifier, ...]:
    """Return the distinct ``verifiers`` that signed the note; signatures by unknown keys are ignored.

    Raises:
        SignatureError: fewer than ``threshold`` of them did, or a signature that names one of them does not verify.
        ValueError: a ``threshold`` below 1, which every note would reach.
    """
    if threshold < 1:
        raise ValueError(f"threshold: expected 1 or more, found {threshold}")
    known = {(v.name, v.key_id): v for v in verifiers}
    message = note.text.encode()
    verified: dict[Verifier, None] = {}
    for signature in note.signatures:
        verifier = known.get((signature.name, signature.key_id))
        if verifier is None or verifier in verified:
            continue
        if not verifier.verifies(message, signature.signature):
            raise SignatureError(f"signature by {verifier.name}+{verifier.hash}: expected it to verify, it does not")
        verified[verifier] = None
    if len(verified) < threshold:
        trusted = ", ".join(f"{v.name}+{v.hash}" for v in verifiers) or "none"
        found = ", ".join(f"{s.name}+{s.key_id.hex()}" for s in note.signatures)
        raise SignatureError(f"expected {threshold} signature(s) by trusted keys ({trusted}), found {found or 'none'}")
    return tuple(verified)
