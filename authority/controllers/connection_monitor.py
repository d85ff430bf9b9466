"""Controller that lists clients still connected with a certificate of a withdrawn CA, by nats-server's monitoring.

A reload evicts no client: a client that connected before the CA was removed stays connected until the connection is
closed. ``/connz?auth=1`` has the certificates that each client sent at its handshake: the leaf first, then its chain
(https://docs.nats.io/running-a-nats-service/nats_admin/monitoring#connection-information-connz).
"""

import asyncio
import ssl
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from authority.controllers.context import ControllerContext
from authority.journal.history import EpochCa, History
from tidemark.bundle import Bundle
from tidemark.strict_json import FieldError, Fields, parse_object

PAGE = 1024
"""Connections in one answer at most."""

_SECONDS = 10.0
_LONGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """A client's connection."""

    server: str
    """The monitoring URL that listed the connection."""

    cid: int
    name: str
    address: str
    subject: str

    since: str
    """RFC 3339, as the server writes it."""

    ca: str
    """Fingerprint of the withdrawn CA in the client's chain."""


@dataclass(frozen=True, slots=True)
class ConnectionScan:
    """The connections of all servers."""

    at: int
    """Unix seconds."""

    connected: tuple[ClientConnection, ...]

    silent: int
    """Connections whose client sent a leaf alone: the server does not show which CA signed it."""

    errors: dict[str, str]
    """By URL, why a server's answer does not count."""


class MonitorError(Exception):
    """A server did not list its connections; the message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class ConnzPage:
    """One answer to ``/connz``: ``count`` connections of ``total``."""

    connected: tuple[ClientConnection, ...]
    silent: int
    count: int
    total: int


def read_page(data: bytes, server: str, withdrawn: Collection[str]) -> ConnzPage:
    """Read an answer to ``/connz?auth=1`` (nats-server, "Connection Information"). Raises MonitorError; pure."""
    try:
        fields = parse_object(data)
        connections, connected, silent = fields.objects("connections"), [], 0
        for connection in connections:
            chain = connection.objects("tls_peer_certs") if "tls_peer_certs" in connection else []
            above = [certificate.string("cert_sha256") for certificate in chain[1:]]
            silent += len(chain) == 1
            connected += [_connected(connection, server, ca) for ca in withdrawn if ca in above]
        return ConnzPage(tuple(connected), silent, len(connections), fields.integer("total"))
    except FieldError as error:
        raise MonitorError(f"expected connections as /connz shows them, found {error}") from None


def _connected(connection: Fields, server: str, ca: str) -> ClientConnection:
    leaf = connection.objects("tls_peer_certs")[0]
    return ClientConnection(
        server=server,
        cid=connection.integer("cid"),
        name=connection.string("name")[:_LONGEST_NAME] if "name" in connection else "",
        address=f"{connection.string('ip')}:{connection.integer('port')}",
        subject=leaf.string("subject")[:_LONGEST_NAME],
        since=connection.string("start"),
        ca=ca,
    )


def cas_to_look_for(history: History, now: int) -> tuple[EpochCa, ...]:
    """The withdrawn CAs whose leaves may still be valid; pure."""
    return tuple(ca for ca in history.cas if ca.withdrawn and not ca.is_expired(now))


class ConnectionMonitor:
    """Asks every server while a withdrawn CA has not expired: after each statement, and every heartbeat.

    ``servers`` are monitoring URLs (``http://127.0.0.1:8222``); an https server is verified by the newest bundle.
    ``on_error`` is called with the URL of a server that does not answer as expected, and the reason.
    """

    def __init__(
        self, context: ControllerContext, servers: Sequence[str], on_error: Callable[[str, str], None]
    ) -> None:
        self._context = context
        self._servers = tuple(servers)
        self._on_error = on_error
        self._last: ConnectionScan | None = None

    @property
    def last(self) -> ConnectionScan | None:
        """The last scan; None before the first, and where no server is configured."""
        return self._last

    async def run(self) -> None:
        """Scan until cancelled."""
        changed = self._context.journal.watch()
        while True:
            changed.clear()
            history, now = self._context.journal.history, self._context.now()
            cas = cas_to_look_for(history, now)
            if self._servers and cas and history.newest is not None:
                self._last = await self.scan([ca.sha256 for ca in cas], history.newest.bundle, now)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._context.heartbeat):
                    await changed.wait()

    async def scan(self, withdrawn: Collection[str], bundle: Bundle, now: int) -> ConnectionScan:
        """Ask all servers at once; a server that does not answer is named, and hides no other."""
        # Verified by the newest bundle; with partial chains, because a bundle may carry no root.
        tls = ssl.create_default_context(cadata=bundle.ca.decode())
        tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        connected: list[ClientConnection] = []
        silent, errors = 0, {}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls), timeout=aiohttp.ClientTimeout(_SECONDS)
        ) as session:
            scans = (_connections(session, server, withdrawn) for server in self._servers)
            for server, found in zip(self._servers, await asyncio.gather(*scans), strict=True):
                if isinstance(found, MonitorError):
                    errors[server] = str(found)
                    self._on_error(server, str(found))
                    continue
                for page in found:
                    connected += page.connected
                    silent += page.silent
        return ConnectionScan(now, tuple(connected), silent, errors)


async def _connections(
    session: aiohttp.ClientSession, server: str, withdrawn: Collection[str]
) -> list[ConnzPage] | MonitorError:
    pages: list[ConnzPage] = []
    offset = 0
    try:
        while True:
            # Page by page: connections may come and go in between, so the list is a close picture, not an exact one.
            page = read_page(await _get(session, server, offset), server, withdrawn)
            pages.append(page)
            offset += page.count
            if not page.count or offset >= page.total:
                return pages
    except MonitorError as error:
        return error


async def _get(session: aiohttp.ClientSession, server: str, offset: int) -> bytes:
    query = {"auth": "1", "limit": str(PAGE), "offset": str(offset)}
    try:
        async with session.get(f"{server.rstrip('/')}/connz", params=query) as response:
            if response.status != 200:
                raise MonitorError(f"expected status 200, found {response.status}")
            if (response.content_length or 0) > _LONGEST_ANSWER:
                raise MonitorError(f"expected at most {_LONGEST_ANSWER} bytes, found {response.content_length}")
            return await response.read()
    except TimeoutError:
        raise MonitorError(f"expected an answer within {_SECONDS:g} s, found none") from None
    except aiohttp.ClientError as error:
        raise MonitorError(f"expected an answer, found {error}") from None
