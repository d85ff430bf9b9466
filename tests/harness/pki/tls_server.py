"""A TLS server with a certificate of the control CA, and a client that reads the certificate."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cryptography import x509

NAMES = ("localhost", "127.0.0.1")


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[int]:
    def drop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def served(port: int, trusted: bytes, name: str = "localhost") -> x509.Certificate:
    """The certificate that the server presents to a client which trusts the control CA alone."""
    context = ssl.create_default_context(cadata=trusted.decode())
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der)
