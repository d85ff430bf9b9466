"""One TLS handshake with a server, to see what it has loaded: the CAs it asks clients for, and the leaf it serves.

The handshake shows names that the server sends before it trusts us, in TLS 1.2 and 1.3. It is completed with a leaf
that the server trusts and closed before a word of the application's protocol: that is what servers do not log as an
error. Without a leaf to present, our last flight is withheld where the server lets that pass in silence, and otherwise
sent, which leaves the fewest lines (decision 19). The server's certificate is not verified here on purpose: the caller
compares it, whole, with the one that was installed.
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
_GOODBYE_SECONDS = 0.05
_LONG_GOODBYE_SECONDS = 1.0  # at most, for what is certain to come
_LONGEST_SILENCE = 15.0  # seconds that a withheld flight is waited out: above any sensible TLS time-out of a server
_GREETING = b"INFO "


class HandshakeFailed(Exception):
    """No handshake came about; ``absent`` says that nobody was reached there."""

    def __init__(self, message: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


@dataclass(frozen=True, slots=True)
class ProbeResult:
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


def passes_silence(version: str) -> bool:
    """Whether a nats-server of this version ("2.14.6") lets a flight that does not come pass without a word on its
    client and leafnode ports: from 2.12.9 and 2.14.1 on. Those before log two lines then, and one of a whole handshake.
    """
    number = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    found = tuple(map(int, number.groups())) if number else ()
    return (2, 12, 9) <= found < (2, 13) or found >= (2, 14, 1)


@dataclass(slots=True)
class WithheldHandshakes:
    """Connections whose last flight is withheld: each stays open until the server gives it up, or it would log more.

    ``version`` is the server's, as far as it is known; a greeting tells it anew.
    """

    version: str = ""
    _waiting: set[asyncio.Task[None]] = field(default_factory=set)

    def keep(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the connection over, until the server ends it."""
        task = asyncio.create_task(_wait_out(reader, writer), name="withheld handshake")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)


async def _wait_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):  # TimeoutError among them
            async with asyncio.timeout(_LONGEST_SILENCE):
                await reader.read()
    finally:
        writer.close()


async def look(address: Address, context: SSL.Context, *, silences: WithheldHandshakes | None = None) -> ProbeResult:
    """Shake hands once, with a server that greets with NATS's INFO line or one that does not.

    With ``silences`` the last flight is withheld where the server asks for a certificate and lets that pass. The caller
    bounds the time. Raises HandshakeFailed.
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
        withheld = await _shake_hands(connection, reader, writer, silences)
        shown = _shown(connection)
        if not withheld:
            # A server that is still writing (session tickets, a route's INFO) logs an error if we hang up on it. In TLS
            # 1.3 one that asks for a certificate writes once more, when it has read ours.
            more = shown.ca_names and connection.get_protocol_version_name() == "TLSv1.3"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONG_GOODBYE_SECONDS if more else _GOODBYE_SECONDS):
                    await reader.read(_RECORDS)
    except (OSError, SSL.Error) as error:
        raise HandshakeFailed(f"the TLS handshake failed: {error!r}") from error
    except ValueError as error:  # servers load what a strict parser does not, such as Latin-1 in a T61String
        raise HandshakeFailed(f"expected names and a certificate that parse, found {error}") from error
    finally:
        if silences is not None and withheld:
            silences.keep(reader, writer)
        else:
            writer.close()
            with contextlib.suppress(OSError):  # the server may have closed first, and we have seen what we came for
                await writer.wait_closed()
    return shown


async def _shake_hands(
    connection: SSL.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    silences: WithheldHandshakes | None,
) -> bool:
    """Whether the last flight was withheld. Ours goes first: a server that greets has not begun to read by then."""
    finished = greeted = False
    while True:
        try:
            connection.do_handshake()
            finished = True
        except SSL.WantReadError:
            pass
        asked = connection.get_peer_certificate(as_cryptography=True) and connection.get_client_ca_list()
        if asked and silences is not None and passes_silence(silences.version):
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
            if greeting and silences is not None:
                silences.version = _version(greeting)
        connection.bio_write(records)


def _shown(connection: SSL.Connection) -> ProbeResult:
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
    """The version that an INFO line tells; empty where it tells none."""
    try:
        said = json.loads(greeting.removeprefix(_GREETING))
    except ValueError:
        return ""
    return str(said.get("version", "")) if isinstance(said, dict) else ""


async def _records(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_RECORDS)
    if not data:
        raise HandshakeFailed("the server closed the connection in the middle of the handshake")
    return data
