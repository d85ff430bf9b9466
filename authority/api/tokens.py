"""Bearer tokens of the API: agents send receipts with theirs, operators ask for changes with theirs (RFC 6750).

Each is a 0600 file of the state directory, ``<state>/tokens/<holder>``. The holder's name is a role, or a role with a
name of its own (``operator-alice``), and goes into the journal with what the holder asked for. The files are read again
and again: a token that was taken away is worth nothing from then on.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Never, Protocol

from authority.fleet.members import PodIdentity
from authority.pki.keystore import KeystoreError
from authority.support import atomic_files

TOKENS = "tokens"

LOOK_SECONDS = 2.0
"""How often the files are read."""

_SHORTEST = 32

_HOLDER = re.compile(r"(agent|operator)(-[A-Za-z0-9._-]{1,64})?")


class TokenRole(StrEnum):
    """What a token is good for."""

    AGENT = "agent"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """Who sent a request."""

    name: str
    role: TokenRole


class TokenReviewUnavailable(Exception):
    """Whoever knows the agents' tokens could not be asked; the message says why. Trying again is safe."""


class TokenReviewer(Protocol):
    """Knows the agents' tokens where they are not ours."""

    async def sender(self, token: str) -> PodIdentity | None:
        """Whose token it is; None where it is nobody's. Raises TokenReviewUnavailable."""


@dataclass(slots=True)
class Tokens:
    """Holders by the SHA-256 of their token; agents are known by ``reviewer`` instead, where there is one."""

    _holders: Mapping[bytes, TokenHolder] = field(repr=False)
    reviewer: TokenReviewer | None = None

    def holder_of(self, token: str) -> TokenHolder | None:
        """Who holds this token; takes the same time for every token."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        found = None
        for known, holder in self._holders.items():
            if hmac.compare_digest(known, digest):
                found = holder
        return found

    async def keep_current(
        self, state: Path, failed: Callable[[KeystoreError], None], look_seconds: float = LOOK_SECONDS
    ) -> Never:
        """Read the files again and again. While one of them is no token, what was read last counts, and it is told."""
        while True:
            await asyncio.sleep(look_seconds)
            try:
                self._holders = await asyncio.to_thread(_read_holders, state)
            except KeystoreError as error:
                failed(error)


def create_token(state: Path, role: TokenRole) -> Path | None:
    """Make the role's first token and return its file; None where one stands already. Raises KeystoreError."""
    path = state / TOKENS / role
    atomic_files.make_directory(path.parent)
    try:
        atomic_files.create_file(path, f"{secrets.token_urlsafe(32)}\n".encode(), atomic_files.SECRET)
    except FileExistsError:
        return None
    except OSError as error:
        raise KeystoreError(f"{path}: expected to write a token there, found {error.strerror}") from None
    return path


def read_tokens(state: Path) -> Tokens:
    """Read every token of the state directory. Raises KeystoreError, also where agents or operators have none."""
    holders = _read_holders(state)
    if {holder.role for holder in holders.values()} != set(TokenRole):
        raise KeystoreError(f"{state / TOKENS}: expected a token of agents and one of operators; run 'init' first")
    return Tokens(holders)


def _read_holders(state: Path) -> dict[bytes, TokenHolder]:
    holders: dict[bytes, TokenHolder] = {}
    for path in sorted((state / TOKENS).glob("[!.]*")):
        if not (match := _HOLDER.fullmatch(path.name)):
            raise KeystoreError(f"{path}: expected a file named 'agent', 'operator' or 'operator-<name>'")
        holders[hashlib.sha256(read_token(path).encode()).digest()] = TokenHolder(path.name, TokenRole(match[1]))
    return holders


def read_token(path: Path) -> str:
    """The token in a file. Raises KeystoreError, which never shows it."""
    try:
        token = path.read_text().strip()
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) else "bytes that are no text"
        raise KeystoreError(f"{path}: expected a readable token, found {found}") from None
    if len(token) < _SHORTEST or not token.isascii():
        raise KeystoreError(f"{path}: expected a token of at least {_SHORTEST} ASCII characters, found {len(token)}")
    return token
