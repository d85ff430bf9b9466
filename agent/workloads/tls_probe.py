"""One TLS handshake with a server, to read what the server has loaded: the names of its CAs, and the leaf it serves.

A server sends both before it verifies the client, in TLS 1.2 and 1.3 (RFC 5246, 7.4.4; RFC 8446, 4.3.2). With a leaf
that the server trusts the handshake is completed, and closed before the application's protocol begins: servers log no
error of that. Without a leaf the client's last flight is withheld where the server ignores that, and otherwise sent;
that leaves the fewest lines in the server's log (decision 19). The server's certificate is not verified: the caller
compares the whole certificate with the installed one.
"""

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from agent.workloads.targets import Address
from tidemark.certificates import Leaf, fingerprint

_RECORDS = 64 * 1024
_CLOSE_SECONDS = 0.05
"""How long the server may still write before the connection is closed."""
_LAST_WRITE_SECONDS = 1.0
"""The same where the server is certain to write."""
_WITHHELD_SECONDS = 15.0
"""How long a connection with a withheld flight stays open: longer than any sensible TLS timeout of a server."""
_GREETING = b"INFO "


class HandshakeFailed(Exception):
    """The handshake failed; ``absent``: no server could be reached."""

    def __init__(self, message: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a server has loaded."""

    ca_names: tuple[x509.Name, ...]
    """Names of the CAs whose clients it accepts; empty: it asks clients for no certificate."""
    leaf_sha256: str
    """SHA-256 of the certificate that it serves, in hex."""


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


def ignores_withheld_flight(version: str) -> bool:
    """Whether a nats-server of this version ("2.14.6") logs nothing where the client's last flight does not arrive.

    On client and leafnode ports, from 2.12.9 and 2.14.1 on. Servers before log two lines of a withheld flight, and one
    of a handshake without a certificate.
    """
    number = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    found = tuple(map(int, number.groups())) if number else ()
    return (2, 12, 9) <= found < (2, 13) or found >= (2, 14, 1)


@dataclass(slots=True)
class WithheldHandshakes:
    """Connections whose last flight is withheld. The server logs more if they are closed before it gives them up."""

    version: str = ""
    """The server's version, as its last INFO line or its monitoring says; empty: not known."""
    _waiting: set[asyncio.Task[None]] = field(default_factory=set)

    def hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep this connection open until the server closes it."""
        task = asyncio.create_task(_wait_for_end(reader, writer), name="withheld handshake")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)


async def _wait_for_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):  # TimeoutError among them
            async with asyncio.timeout(_WITHHELD_SECONDS):
                await reader.read()
    finally:
        writer.close()


async def probe(
    address: Address, context: SSL.Context, *, withheld_handshakes: WithheldHandshakes | None = None
) -> ProbeResult:
    """Make one handshake, with a server that sends NATS's INFO line first or one that begins with TLS.

    With ``withheld_handshakes`` the last flight is withheld where the server asks for a certificate and ignores that.
    The caller bounds the time. Raises HandshakeFailed.
    """
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=_RECORDS)
    except ConnectionRefusedError as error:
        raise HandshakeFailed("nothing listens there (connection refused)", absent=True) from error
    except OSError as error:  # no such name, no way, or several addresses that refuse, as localhost's two do
        raise HandshakeFailed(f"cannot connect: {error}", absent=True) from error
    withheld = False
    try:
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        withheld = await _shake_hands(connection, reader, writer, withheld_handshakes)
        result = _read_result(connection)
        if not withheld:
            # A server that is still writing (session tickets, a route's INFO) logs an error if the client closes the
            # connection. In TLS 1.3 a server that asks for a certificate writes once more after it has read ours.
            writes_again = result.ca_names and connection.get_protocol_version_name() == "TLSv1.3"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WRITE_SECONDS if writes_again else _CLOSE_SECONDS):
                    await reader.read(_RECORDS)
    except (OSError, SSL.Error) as error:
        raise HandshakeFailed(f"the TLS handshake failed: {error!r}") from error
    except ValueError as error:  # servers load what a strict parser does not, such as Latin-1 in a T61String
        raise HandshakeFailed(f"expected names and a certificate that parse, found {error}") from error
    finally:
        if withheld_handshakes is not None and withheld:
            withheld_handshakes.hold(reader, writer)
        else:
            writer.close()
            with contextlib.suppress(OSError):  # the server may have closed first, and the result is complete
                await writer.wait_closed()
    return result


async def _shake_hands(
    connection: SSL.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    withheld_handshakes: WithheldHandshakes | None,
) -> bool:
    """Make the handshake; returns whether the last flight was withheld."""
    # The first flight is sent before the INFO line is read, which saves a round trip: the server reads the flight after
    # it has written that line.
    finished = greeted = False
    while True:
        try:
            connection.do_handshake()
            finished = True
        except SSL.WantReadError:
            pass
        asked = connection.get_peer_certificate(as_cryptography=True) and connection.get_client_ca_list()
        if asked and withheld_handshakes is not None and ignores_withheld_flight(withheld_handshakes.version):
            return True
        with contextlib.suppress(SSL.WantReadError):  # nothing to send
            writer.write(connection.bio_read(_RECORDS))
        await writer.drain()
        if finished:
            return False
        records = await _records(reader)
        if not greeted:
            greeting, records = await _after_greeting(records, reader)
            greeted = True
            if greeting and withheld_handshakes is not None:
                withheld_handshakes.version = _version(greeting)
        connection.bio_write(records)


def _read_result(connection: SSL.Connection) -> ProbeResult:
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        raise HandshakeFailed("expected the server's certificate, found none")
    return ProbeResult(tuple(connection.get_client_ca_list(as_cryptography=True)), fingerprint(certificate))


async def _after_greeting(data: bytes, reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The INFO line, if there is one, and the first records."""
    while _GREETING.startswith(data[: len(_GREETING)]) and b"\n" not in data:
        if len(data) > _RECORDS:
            raise HandshakeFailed(f"expected an INFO line of at most {_RECORDS} bytes, found more")
        data += await _records(reader)
    greeting = b""
    if data.startswith(_GREETING):
        greeting, _, data = data.partition(b"\n")
    return greeting, data or await _records(reader)


def _version(greeting: bytes) -> str:
    """The version that an INFO line names; empty where it names none."""
    try:
        info = json.loads(greeting.removeprefix(_GREETING))
    except ValueError:
        return ""
    return str(info.get("version", "")) if isinstance(info, dict) else ""


async def _records(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_RECORDS)
    if not data:
        raise HandshakeFailed("the server closed the connection in the middle of the handshake")
    return data
