"""One TLS handshake with a server, to see what it has loaded: the CAs it asks clients for, and the leaf it serves.

The handshake shows names that the server sends before it trusts us, in TLS 1.2 and 1.3. It is completed with the
installed leaf and closed before a word of the application's protocol: that is what servers do not log as an error. The
server's certificate is not verified here on purpose: the caller compares it, whole, with the one that was installed.
"""

import asyncio
import contextlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from agent.target import Address
from tidemark.certificates import Leaf, fingerprint

_RECORDS = 64 * 1024
_GOODBYE_SECONDS = 0.05


class HandshakeFailed(Exception):
    """No handshake came about; ``absent`` says that nobody listens there."""

    def __init__(self, message: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server showed: the names of the CAs it accepts clients of (none: it asks for no certificate), its leaf."""

    ca_names: tuple[x509.Name, ...]
    leaf_sha256: str


def client_context(leaf: Leaf | None) -> SSL.Context:
    """A TLS client that presents ``leaf``, where there is one."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    if leaf is not None:
        context.use_certificate(leaf.certificate)
        for certificate in leaf.chain:
            context.add_extra_chain_cert(certificate)
        # load_pem_private_key returns more kinds of key than can be in a certificate; parse_leaf has compared the two.
        context.use_privatekey(load_pem_private_key(leaf.key_pem, password=None))  # type: ignore[arg-type]
    return context


async def look(address: Address, context: SSL.Context, *, greeted: bool) -> Shown:
    """Shake hands once; ``greeted``: the server sends NATS's INFO line first, and TLS begins after it.

    The caller bounds the time. Raises HandshakeFailed.
    """
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=_RECORDS)
    except ConnectionRefusedError as error:
        raise HandshakeFailed("nothing listens there (connection refused)", absent=True) from error
    except OSError as error:
        raise HandshakeFailed(f"cannot connect: {error}") from error
    try:
        if greeted:
            await _greeting(reader)
        return await _shake_hands(SSL.Connection(context, None), reader, writer)
    except (OSError, SSL.Error) as error:
        raise HandshakeFailed(f"the TLS handshake failed: {error!r}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # the server may have closed first, and we have seen what we came for
            await writer.wait_closed()


async def _greeting(reader: asyncio.StreamReader) -> None:
    try:
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise HandshakeFailed("expected an INFO line first, found none (a port that begins with TLS?)") from error
    if not line.startswith(b"INFO "):
        raise HandshakeFailed(f"expected an INFO line first, found {line[:20]!r}")


async def _shake_hands(connection: SSL.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Shown:
    connection.set_connect_state()
    finished = False
    while not finished:
        try:
            connection.do_handshake()
            finished = True
        except SSL.WantReadError:
            pass
        with contextlib.suppress(SSL.WantReadError):  # nothing to send
            writer.write(connection.bio_read(_RECORDS))
        await writer.drain()
        if not finished:
            connection.bio_write(await _records(reader))
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        raise HandshakeFailed("expected the server's certificate, found none")
    # A server that is still writing (session tickets, a route's INFO) logs an error if we hang up on it.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(_RECORDS), _GOODBYE_SECONDS)
    return Shown(tuple(connection.get_client_ca_list(as_cryptography=True)), fingerprint(certificate))


async def _records(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_RECORDS)
    if not data:
        raise HandshakeFailed("the server closed the connection in the middle of the handshake")
    return data
