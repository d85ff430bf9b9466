"""Bearer tokens of the API: who holds which, and what the holder may do (RFC 6750); pure.

Agents send receipts with a token of role ``agent``, operators ask for changes with a token of role ``operator``. The
holder's name is the role, or the role with a name of its own (``operator-alice``); the journal records it with the
request. ``authority/api/token_files.py`` reads the files.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from authority.fleet.members import PodIdentity

_SHORTEST = 32

_HOLDER = re.compile(r"(agent|operator)(-[A-Za-z0-9._-]{1,64})?")


class TokenRole(StrEnum):
    """The requests that a token is good for."""

    AGENT = "agent"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """The sender of a request."""

    name: str
    role: TokenRole


class TokenInvalid(ValueError):
    """A name or a text is not that of a token; the message says what was expected, and never shows the text."""


class TokenReviewUnavailable(Exception):
    """A token could not be reviewed; the message says why. Trying again is safe."""


class TokenReviewer(Protocol):
    """Reviews the agents' tokens where another system issues them."""

    async def sender(self, token: str) -> PodIdentity | None:
        """The pod that holds the token; None where the token is not valid. Raises TokenReviewUnavailable."""


@dataclass(slots=True)
class Tokens:
    """The known holders. Where there is a ``reviewer``, it identifies the agents in place of a shared token."""

    holders: Mapping[bytes, TokenHolder] = field(repr=False)
    """By the SHA-256 of the token."""
    reviewer: TokenReviewer | None = None

    def holder_of(self, token: str) -> TokenHolder | None:
        """The holder of this token, None where the token is unknown; takes the same time for every token."""
        digest = token_digest(token)
        found = None
        for known, holder in self.holders.items():
            if hmac.compare_digest(known, digest):
                found = holder
        return found


def token_digest(token: str) -> bytes:
    """The SHA-256 by which a token is known."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def parse_holder(name: str) -> TokenHolder:
    """The holder that a token file's name says. Raises TokenInvalid."""
    match = _HOLDER.fullmatch(name)
    if not match:
        raise TokenInvalid("expected a file named 'agent', 'operator' or 'operator-<name>'")
    return TokenHolder(name, TokenRole(match[1]))


def parse_token(content: bytes) -> str:
    """The token in a file's content. Raises TokenInvalid."""
    try:
        token = content.decode().strip()
    except ValueError:
        raise TokenInvalid("expected a readable token, found bytes that are no text") from None
    if len(token) < _SHORTEST or not token.isascii():
        raise TokenInvalid(f"expected a token of at least {_SHORTEST} ASCII characters, found {len(token)}")
    return token
