"""Bearer tokens in files, read at each use: a projected token is replaced long before it ends."""

from pathlib import Path

from aiohttp import ClientResponse


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


async def read_answer(response: ClientResponse, most: int) -> bytes:
    """The body, as far as so many bytes; raises aiohttp.ClientError."""
    body = bytearray()
    while len(body) < most and (piece := await response.content.read(most - len(body))):
        body += piece
    return bytes(body)
