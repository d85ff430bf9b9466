"""Limits the connections of an HTTPS server: how many at a time, how many from one address, and how long they may wait.

A TLS connection costs 0.3 MiB here (docs/decisions/0023). After a rotation every agent of a large fleet makes one. At
most so many are accepted at a time; further ones wait in the kernel's queue, where they cost nothing.

Idle or slow connections are closed after a deadline (docs/decisions/0029). The deadline runs while the server waits
for the client: until the request is complete, while the client does not read the answer, and between two requests. It
counts from the beginning of that wait, however many bytes the client sends meanwhile. While the application makes an
answer, no deadline runs. One address has a quarter of the slots at most.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

_HANDSHAKE_SECONDS = 10.0

_RETRY_SECONDS = 0.1
"""Until the next look for an idle connection, and until the next accept after a failed one."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections a server accepts, and how long they may keep it waiting."""

    most: int = 200
    """Connections at a time, agents' and others'."""
    per_address: int = 50
    """Connections of one address among them; more are closed at once. A replica that passes receipts on needs 32."""
    wait_seconds: float = 15.0
    """How long the server waits for a client: longer than an agent waits for its answer, so no agent is cut short."""
    idle_seconds: float = 1.0
    """How long a connection may idle between two requests while every slot is taken."""


class _Connection(asyncio.Protocol):
    """Passes everything on to ``protocol``, and aborts the connection where the client keeps the server waiting."""

    def __init__(self, protocol: asyncio.Protocol, wait_seconds: float) -> None:
        self.closed = asyncio.Event()
        self._protocol = protocol
        self._wait_seconds = wait_seconds
        self._transport: asyncio.WriteTransport | None = None
        self._is_answering = False
        # The client does not read what is written to it.
        self._is_unread = False
        self._deadline: asyncio.TimerHandle | None = None
        self._answered_at: float | None = None

    @property
    def is_closing(self) -> bool:
        """Whether the connection has ended or is about to."""
        return self._transport is None or self._transport.is_closing()

    @property
    def idle_since(self) -> float | None:
        """When the last answer was made (by the loop's clock); None while a request or an answer is under way."""
        is_busy = self._is_answering or self._is_unread or self.is_closing
        return None if is_busy else self._answered_at

    def request_received(self) -> None:
        """The request is complete: the application answers now."""
        self._is_answering = True
        self._update_deadline()

    def answer_made(self) -> None:
        """The client is to read the answer, and then to send the next request or to close."""
        self._is_answering, self._answered_at = False, asyncio.get_running_loop().time()
        self._update_deadline()

    def abort(self) -> None:
        """End the connection at once, without the closing words of TLS."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport
        self._update_deadline()
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._is_unread = True
        self._update_deadline()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._is_unread = False
        self._update_deadline()
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._update_deadline()
        self.closed.set()
        self._protocol.connection_lost(exc)

    def _update_deadline(self) -> None:
        is_client_due = self._transport is not None and (self._is_unread or not self._is_answering)
        # A deadline that runs already stays: if each byte began a new one, it would never come for a client that
        # sends a byte now and then.
        if is_client_due and self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(self._wait_seconds, self.abort)
        elif not is_client_due and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@web.middleware
async def connection_deadlines(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reads the request in whole, and then stops the connection's deadline until the answer is made.

    Every application behind ``serve`` needs this middleware, inside of the one that turns errors into answers.
    """
    connection = request.transport.get_protocol() if request.transport is not None else None
    if not isinstance(connection, _Connection):
        return await handler(request)
    try:
        # First the whole body, while the deadline still runs: the application never waits for a slow client.
        await request.read()
        connection.request_received()
        return await handler(request)
    except ConnectionError:
        if not connection.is_closing:
            raise
        # Never sent: the client has gone, or its connection was aborted.
        return web.Response()
    except web.RequestPayloadError:
        raise web.HTTPBadRequest(text=f"{request.path}: expected a body as its headers say, found none") from None
    finally:
        connection.answer_made()


class _Slots:
    """The slots of one server: which addresses hold them, and which connections could give one back."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()
        self._connections: set[_Connection] = set()
        self._released = asyncio.Event()

    async def wait_for_free(self) -> None:
        """Return once a slot is free; close idle connections until then."""
        loop = asyncio.get_running_loop()
        while self._taken.total() >= self._limits.most:
            self._released.clear()
            self._abort_longest_idle(loop.time() - self._limits.idle_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS):
                    await self._released.wait()

    def reserve(self, address: str) -> bool:
        """Reserve a slot for a connection from ``address``; False where the address has its share already."""
        if self._taken[address] >= self._limits.per_address:
            return False
        self._taken[address] += 1
        return True

    async def handle(
        self, accepted: socket.socket, address: str, protocol: asyncio.Protocol, tls: ssl.SSLContext
    ) -> None:
        """Serve one connection from its handshake to its end, and give its slot back."""
        connection = _Connection(protocol, self._limits.wait_seconds)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_SECONDS
            )
            self._connections.add(connection)
            await connection.closed.wait()
        except OSError:  # the handshake failed: there never was a connection
            pass
        finally:
            self._connections.discard(connection)
            self._release(address)

    def _release(self, address: str) -> None:
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]
        self._released.set()

    def _abort_longest_idle(self, before: float) -> None:
        """Abort the connection that has been idle for longest, if it has been so since ``before``."""
        idle = [
            (since, connection)
            for connection in self._connections
            if (since := connection.idle_since) is not None and since <= before
        ]
        if idle:
            _, longest = min(idle, key=lambda each: each[0])
            longest.abort()


async def serve(
    listening: socket.socket,
    make_protocol: Callable[[], asyncio.Protocol],
    context: ssl.SSLContext,
    on_refused: Callable[[str], None],
    limits: ConnectionLimits = ConnectionLimits(),
) -> None:
    """Accept TLS connections, each with a protocol of its own, until cancelled.

    ``on_refused`` takes the address of each connection that is closed because its address has its share of the slots.
    """
    loop = asyncio.get_running_loop()
    slots = _Slots(limits)
    listening.setblocking(False)
    async with asyncio.TaskGroup() as group:
        while True:
            # A free slot first, the accept second: what is accepted takes memory here, what waits in the kernel's
            # queue does not.
            await slots.wait_for_free()
            try:
                accepted, (address, *_) = await loop.sock_accept(listening)
            except OSError:  # the client has gone already, or no file descriptor is left
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            # The slot is reserved here and not in the task: the next turn of this loop counts it, though the task has
            # not begun.
            if slots.reserve(address):
                group.create_task(slots.handle(accepted, address, make_protocol(), context))
            else:
                accepted.close()
                on_refused(address)
            # While connections wait in the queue, an accept never suspends: let the others have their turn.
            await asyncio.sleep(0)
