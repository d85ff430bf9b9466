"""The port that signs statements: embedded (files) or OpenBao's transit engine."""

from typing import Protocol

from authority.errors import StateUnusable
from tidemark.note import SignedNote, Verifier


class SignerError(StateUnusable):
    """The statement could not be signed; the message names the key and what to do. A retry is safe."""


class StatementSigner(Protocol):
    """Signs the text of statements with one Ed25519 key, or with two while a key is replaced."""

    async def verifiers(self) -> tuple[Verifier, ...]:
        """The public halves, as the trust file lists them."""

    async def sign(self, text: str) -> SignedNote:
        """Sign a statement's text (``Statement.text()``) with every key; deterministic, so repeating is safe."""
