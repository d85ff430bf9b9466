"""The signer in OpenBao: an Ed25519 key of the transit engine, which the key never leaves.

Each version of the transit key is a signing key of its own, with the label ``<key>-<version>``. ``bao write -f
transit/keys/<key>/rotate`` makes the next one, and statements are then signed by both; raising the key's
``min_decryption_version`` drops the old one. A running authority keeps to the versions that it started with.
"""

import base64
import binascii
from dataclasses import dataclass

from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoError
from authority.openbao.login import Json
from authority.signer.interface import SignerError
from tidemark import note
from tidemark.note import NoteError, Signature, SignedNote, Verifier


@dataclass(frozen=True, slots=True)
class _Version:
    number: int
    verifier: Verifier


async def open_transit_signer(client: OpenBaoClient, mount: str, key: str, trust_domain: str) -> "TransitSigner":
    """Learn every version of the key that is in use. Raises SignerError."""
    path = f"{mount}/keys/{key}"
    try:
        data = await client.read(path)
    except OpenBaoError as error:
        raise SignerError(str(error)) from None
    if data is None:
        raise SignerError(f"{path}: expected a signing key, found none; run 'init --openbao' first")
    return TransitSigner(client, f"{mount}/sign/{key}", _versions(path, data, f"{trust_domain}/{key}"))


class TransitSigner:
    """Implements ``StatementSigner``."""

    def __init__(self, client: OpenBaoClient, path: str, versions: tuple[_Version, ...]) -> None:
        self._client = client
        self._path = path
        self._versions = versions

    async def verifiers(self) -> tuple[Verifier, ...]:
        """The public halves, oldest version first."""
        return tuple(version.verifier for version in self._versions)

    async def sign(self, text: str) -> SignedNote:
        """Sign with every version; each signature is verified before it is used."""
        try:
            note.check_text(text)
            return SignedNote(
                text, tuple([await self._signature(text.encode(), version) for version in self._versions])
            )
        except (NoteError, OpenBaoError) as error:
            raise SignerError(str(error)) from None

    async def _signature(self, message: bytes, version: _Version) -> Signature:
        body = {"input": base64.b64encode(message).decode(), "key_version": version.number}
        answer = await self._client.write(self._path, body)
        verifier = version.verifier
        prefix, _, encoded = str(answer.get("signature")).rpartition(":")
        try:
            signature = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            signature = b""
        if prefix != f"vault:v{version.number}" or not verifier.verifies(message, signature):
            raise SignerError(
                f"{self._path}: expected a signature by {verifier.name}+{verifier.hash}, found another; "
                f"was the key replaced? Restart the authority"
            )
        return Signature(verifier.name, verifier.key_id, signature)


def _versions(path: str, data: Json, name: str) -> tuple[_Version, ...]:
    """The key's versions from ``min_decryption_version`` on, oldest first. Raises SignerError."""
    if data.get("type") != "ed25519":
        raise SignerError(f"{path}: expected a key of type ed25519, found {data.get('type')!r}")
    least = int(data.get("min_decryption_version") or 1)
    try:
        return tuple(
            _Version(number, Verifier(f"{name}-{number}", base64.b64decode(key["public_key"], validate=True)))
            for number, key in sorted((int(number), key) for number, key in data["keys"].items())
            if number >= least
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SignerError(f"{path}: expected public keys of 32 bytes, found {error}") from None
