"""HTTP with a bearer token: tokens from files, bounded answers."""

from pathlib import Path

from aiohttp import ClientResponse


class TokenUnusable(Exception):
    """The file holds no token; the message names the file and shows nothing of its content."""


def read_token(path: Path) -> str:
    """Read a token, as at each use: the kubelet replaces a projected token before it expires. Raises TokenUnusable."""
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise TokenUnusable(f"{path}: expected the token, found {found}") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenUnusable(f"{path}: expected one token, found {'none' if not token else 'something else'}")
    return token


async def read_answer(response: ClientResponse, most: int) -> bytes:
    """Read at most ``most`` bytes of the body; raises aiohttp.ClientError."""
    body = bytearray()
    while len(body) < most and (piece := await response.content.read(most - len(body))):
        body += piece
    return bytes(body)
