"""Credentials of the agent's own NATS connections: a file in, nats-py's options out. Files are read at each connection.

Nonces are signed with ``cryptography``; nats-py would need the package nkeys. Where no file is configured, the
installed leaf is the login, as with ``verify_and_map``.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nats.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END USER NKEY SEED-+")
_SEED_BYTES = 36  # two of kind, 32 of the seed, two of checksum
_LONGEST = 64 * 1024


class LoginUnusable(nats.errors.Error):
    """A file with credentials cannot be used; the message names the file and shows nothing of its content."""


def with_creds(path: Path) -> Mapping[str, Any]:
    """Log in with a ``.creds`` file: a JWT, and the seed that signs the server's nonce."""
    # nats-py calls the callbacks only where another login is set too. It does not send a user without a password.
    return {"user": "creds", "user_jwt_cb": partial(_jwt, path), "signature_cb": partial(_signature, path)}


def with_password(user: str, path: Path) -> Mapping[str, Any]:
    """Log in with a user's name and the file of the password; raises LoginUnusable."""
    password = _content(path).strip()
    if not password or not password.isprintable():
        raise LoginUnusable(f"{path}: expected a password on one line, found {'none' if not password else 'more'}")
    return {"user": user, "password": password}


def _jwt(path: Path) -> bytes:
    found = _JWT.search(_content(path))
    if not found:
        raise LoginUnusable(f"{path}: expected a block NATS USER JWT, found none")
    return found[1].encode()


def _signature(path: Path, nonce: str) -> bytes:
    found = _SEED.search(_content(path))
    if not found:
        raise LoginUnusable(f"{path}: expected a block USER NKEY SEED, found none")
    try:
        seed = base64.b32decode(found[1] + "=" * (-len(found[1]) % 8))
    except binascii.Error:
        seed = b""
    if len(seed) != _SEED_BYTES:
        raise LoginUnusable(f"{path}: expected the seed of a user's nkey, found something else")
    return base64.b64encode(Ed25519PrivateKey.from_private_bytes(seed[2:34]).sign(nonce.encode()))


def _content(path: Path) -> str:
    try:
        with path.open() as file:
            return file.read(_LONGEST)
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise LoginUnusable(f"{path}: expected a readable file, found {found}") from None
