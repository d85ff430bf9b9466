"""Files of bearer tokens: ``<state>/tokens/<holder>``, mode 0600, one token each.

The files are read again every two seconds: a token that an operator deletes is worth nothing from then on.
"""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Never

from authority.api.tokens import (
    TokenHolder,
    TokenInvalid,
    TokenReviewer,
    TokenRole,
    Tokens,
    parse_holder,
    parse_token,
    token_digest,
)
from authority.pki.keystore import KeystoreError
from authority.support import atomic_files

TOKENS = "tokens"

RELOAD_SECONDS = 2.0
"""How often the files are read."""


def create_token(state: Path, role: TokenRole) -> Path | None:
    """Make the role's first token and return its file; None where there is one already. Raises KeystoreError."""
    path = state / TOKENS / role
    atomic_files.make_directory(path.parent)
    try:
        atomic_files.create_file(path, f"{secrets.token_urlsafe(32)}\n".encode(), atomic_files.SECRET)
    except FileExistsError:
        return None
    except OSError as error:
        raise KeystoreError(f"{path}: expected to write a token there, found {error.strerror}") from None
    return path


def read_tokens(state: Path, reviewer: TokenReviewer | None = None) -> Tokens:
    """Read every token of the state directory. Raises KeystoreError, also where agents or operators have none."""
    holders = _read_holders(state)
    if {holder.role for holder in holders.values()} != set(TokenRole):
        raise KeystoreError(f"{state / TOKENS}: expected a token of agents and one of operators; run 'init' first")
    return Tokens(holders, reviewer)


async def reload_tokens(
    tokens: Tokens, state: Path, failed: Callable[[KeystoreError], None], every: float = RELOAD_SECONDS
) -> Never:
    """Read the files every few seconds, until cancelled.

    While a file is invalid, the tokens that were read last stay valid, and ``failed`` is called.
    """
    while True:
        await asyncio.sleep(every)
        try:
            tokens.holders = await asyncio.to_thread(_read_holders, state)
        except KeystoreError as error:
            failed(error)


def read_token(path: Path) -> str:
    """The token in a file. Raises KeystoreError, which never shows it."""
    try:
        return parse_token(path.read_bytes())
    except OSError as error:
        raise KeystoreError(f"{path}: expected a readable token, found {error.strerror}") from None
    except TokenInvalid as error:
        raise KeystoreError(f"{path}: {error}") from None


def _read_holders(state: Path) -> dict[bytes, TokenHolder]:
    holders: dict[bytes, TokenHolder] = {}
    for path in sorted((state / TOKENS).glob("[!.]*")):
        try:
            holder = parse_holder(path.name)
        except TokenInvalid as error:
            raise KeystoreError(f"{path}: {error}") from None
        holders[token_digest(read_token(path))] = holder
    return holders
