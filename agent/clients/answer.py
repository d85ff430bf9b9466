"""Answers over HTTP, read whole: one read of aiohttp's returns what has come in by then."""

from aiohttp import ClientResponse


async def read_answer(response: ClientResponse, most: int) -> bytes:
    """The body, as far as so many bytes; raises aiohttp.ClientError."""
    body = bytearray()
    while len(body) < most and (piece := await response.content.read(most - len(body))):
        body += piece
    return bytes(body)
