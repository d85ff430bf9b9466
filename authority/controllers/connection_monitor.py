"""Sequencer: clients that are still connected with a certificate of a withdrawn CA, as nats-server's monitoring shows.

A reload evicts nobody: who connected before the CA was left out stays connected, until somebody ends the connection.
``/connz?auth=1`` names the certificates that each client sent at its handshake, its leaf first, then its chain.
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
"""Connections that are asked for at once."""

_SECONDS = 10.0
_LONGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """A client's connection: ``server`` is the URL that showed it, ``since`` RFC 3339 as the server writes it.

    ``ca`` is the fingerprint of the withdrawn CA that its chain holds.
    """

    server: str
    cid: int
    name: str
    address: str
    subject: str
    since: str
    ca: str


@dataclass(frozen=True, slots=True)
class ConnectionScan:
    """What all servers showed. ``silent`` counts connections that sent a leaf alone: who signed it is not shown.

    ``errors`` says, by URL, why a server's answer does not count.
    """

    at: int
    connected: tuple[ClientConnection, ...]
    silent: int
    errors: dict[str, str]


class MonitorError(Exception):
    """A server did not show its connections; the message says what was expected and found."""


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


def to_look_for(history: History, now: int) -> tuple[EpochCa, ...]:
    """The CAs that are left out and whose leaves may still be valid; pure."""
    return tuple(ca for ca in history.cas if ca.withdrawn and not ca.is_expired(now))


class ConnectionMonitor:
    """Asks every server while a withdrawn CA has not expired: after each statement, and every heartbeat.

    ``servers`` are monitoring URLs (``http://127.0.0.1:8222``); those over https are verified by the newest bundle.
    """

    def __init__(
        self, surroundings: ControllerContext, servers: Sequence[str], observe: Callable[[str, str], None]
    ) -> None:
        self._here = surroundings
        self._servers = tuple(servers)
        self._complain = observe
        self._last: ConnectionScan | None = None

    @property
    def last(self) -> ConnectionScan | None:
        """What the last look showed; None before it, and where no server is configured."""
        return self._last

    async def run(self) -> None:
        """Look until cancelled."""
        changed = self._here.timeline.watch()
        while True:
            changed.clear()
            history, now = self._here.timeline.history, self._here.now()
            cas = to_look_for(history, now)
            if self._servers and cas and history.newest is not None:
                self._last = await self.look([ca.sha256 for ca in cas], history.newest.bundle, now)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._here.heartbeat):
                    await changed.wait()

    async def look(self, withdrawn: Collection[str], bundle: Bundle, now: int) -> ConnectionScan:
        """Ask all servers at once; one that does not answer is named and hides none of the others."""
        context = ssl.create_default_context(cadata=bundle.ca.decode())
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        connected: list[ClientConnection] = []
        silent, errors = 0, {}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(_SECONDS)
        ) as session:
            looks = (_ask(session, server, withdrawn) for server in self._servers)
            for server, found in zip(self._servers, await asyncio.gather(*looks), strict=True):
                if isinstance(found, MonitorError):
                    errors[server] = str(found)
                    self._complain(server, str(found))
                    continue
                for page in found:
                    connected += page.connected
                    silent += page.silent
        return ConnectionScan(now, tuple(connected), silent, errors)


async def _ask(
    session: aiohttp.ClientSession, server: str, withdrawn: Collection[str]
) -> list[ConnzPage] | MonitorError:
    pages: list[ConnzPage] = []
    offset = 0
    try:
        while True:
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
