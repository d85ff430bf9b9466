"""Bearer tokens in files, read at each use: a projected token is replaced long before it ends."""

from pathlib import Path


class TokenUnusable(Exception):
    """The file holds no token; the message names it, and shows nothing of it."""


def read_token(path: Path) -> str:
    """The token; raises TokenUnusable."""
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "bytes that are no text"
        raise TokenUnusable(f"{path}: expected the token, found {found}") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenUnusable(f"{path}: expected one token, found {'none' if not token else 'something else'}")
    return token
