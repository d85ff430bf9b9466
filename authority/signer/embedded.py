"""The embedded signer: Ed25519 keys in 0600 files, ``<state>/signer/<label>.key``; two while one is replaced."""

from pathlib import Path

from authority.pki import keystore
from authority.pki.keystore import KeystoreError
from authority.signer.interface import SignerError
from authority.support import atomic_files
from tidemark import note
from tidemark.note import NoteError, SignedNote, Signer, Verifier

KEYS = "signer"
FIRST_LABEL = "a"
_SUFFIX = ".key"


def create_key(state: Path, passphrase: bytes | None) -> Path | None:
    """Make the first signing key and return its file; None where there is a key already. Raises KeystoreError."""
    directory = state / KEYS
    atomic_files.make_directory(directory)
    if any(directory.glob(f"[!.]*{_SUFFIX}")):
        return None
    path = directory / f"{FIRST_LABEL}{_SUFFIX}"
    keystore.create_signing_key(path, passphrase)
    return path


def open_signer(state: Path, trust_domain: str, passphrase: bytes | None) -> "EmbeddedSigner":
    """Read every key of the state directory. Raises SignerError."""
    directory = state / KEYS
    paths = sorted(directory.glob(f"[!.]*{_SUFFIX}"))
    if not paths:
        raise SignerError(f"{directory}: expected a signing key, found none; run 'init' first")
    try:
        signers = [Signer(f"{trust_domain}/{path.stem}", keystore.read_signing_key(path, passphrase)) for path in paths]
    except (KeystoreError, NoteError) as error:
        raise SignerError(str(error)) from None
    return EmbeddedSigner(tuple(signers))


class EmbeddedSigner:
    """Implements ``StatementSigner``. A key's name is ``<trust domain>/<label>``; the label is its file's name."""

    def __init__(self, signers: tuple[Signer, ...]) -> None:
        self._signers = signers

    async def verifiers(self) -> tuple[Verifier, ...]:
        """The public halves, in the order of their labels."""
        return tuple(signer.verifier for signer in self._signers)

    async def sign(self, text: str) -> SignedNote:
        """Sign with every key."""
        try:
            return note.sign(text, self._signers)
        except NoteError as error:
            raise SignerError(str(error)) from None
