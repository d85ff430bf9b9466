"""The API's door: so many connections at a time, whoever comes besides waits in the kernel's queue.

A TLS connection costs 0.3 MiB here. After a rotation every agent of a large fleet makes one, and where they come faster
than they are served, what is bounded is how many are inside, never how many there are.

Nobody may hold a place for nothing. A guest and the application inside take turns: while it is the guest's (it has not
yet asked in whole, does not take its answer, or neither asks again nor leaves) its time is limited, whatever it drips;
while it is the application's, nothing is cut. One address has a quarter of the places at most.
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
_REST_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Who may stay, and for how long (seconds)."""

    most: int = 200
    """Connections at a time, agents' and others'."""
    of_one: int = 50
    """Those of one address among them; more are closed at once. A replica that passes receipts on needs 32."""
    patience: float = 15.0
    """How long a guest's turn lasts: longer than an agent waits for its answer, so no agent is cut short by it."""
    idle: float = 1.0
    """How long one may stay between two requests where the house is full."""


class _Connection(asyncio.Protocol):
    """A connection: passes everything on to the protocol inside, and is shown out where its turn lasts too long."""

    def __init__(self, inside: asyncio.Protocol, patience: float) -> None:
        self.gone = asyncio.Event()
        self._inside = inside
        self._patience = patience
        self._transport: asyncio.WriteTransport | None = None
        self._is_served = False
        self._is_stuck = False  # it does not take what is written to it
        self._turn: asyncio.TimerHandle | None = None
        self._answered_at: float | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether the connection has ended or is about to."""
        return self._transport is None or self._transport.is_closing()

    @property
    def idle_since(self) -> float | None:
        """When it was answered (by the loop's clock); None where it still has something to do here."""
        is_busy = self._is_served or self._is_stuck or self.is_leaving
        return None if is_busy else self._answered_at

    def asked(self) -> None:
        """Its request is here in whole."""
        self._is_served = True
        self._take_turns()

    def answered(self) -> None:
        """It is to take the answer, and then to ask again or to leave."""
        self._is_served, self._answered_at = False, asyncio.get_running_loop().time()
        self._take_turns()

    def show_out(self) -> None:
        """End the connection at once, whatever it is about."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport
        self._take_turns()
        self._inside.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inside.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inside.eof_received()

    def pause_writing(self) -> None:
        self._is_stuck = True
        self._take_turns()
        self._inside.pause_writing()

    def resume_writing(self) -> None:
        self._is_stuck = False
        self._take_turns()
        self._inside.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._take_turns()
        self.gone.set()
        self._inside.connection_lost(exc)

    def _take_turns(self) -> None:
        """The time of a turn runs from its beginning, whatever comes in between."""
        is_its_turn = self._transport is not None and (self._is_stuck or not self._is_served)
        if is_its_turn and self._turn is None:
            self._turn = asyncio.get_running_loop().call_later(self._patience, self.show_out)
        elif not is_its_turn and self._turn is not None:
            self._turn.cancel()
            self._turn = None


@web.middleware
async def in_turn(request: web.Request, handler: Handler) -> web.StreamResponse:
    """For an application behind the door: takes the request in whole first, and tells the guest whose turn it is."""
    guest = request.transport.get_protocol() if request.transport is not None else None
    if not isinstance(guest, _Connection):
        return await handler(request)
    try:
        await request.read()
        guest.asked()
        return await handler(request)
    except ConnectionError:
        if not guest.is_leaving:
            raise
        return web.Response()  # which nobody reads: it is gone, or was shown out
    except web.RequestPayloadError:
        raise web.HTTPBadRequest(text=f"{request.path}: expected a body as its headers say, found none") from None
    finally:
        guest.answered()


async def keep(
    listening: socket.socket,
    answer: Callable[[], asyncio.Protocol],
    context: ssl.SSLContext,
    turned_away: Callable[[str], None],
    rules: ConnectionLimits = ConnectionLimits(),
) -> None:
    """Let whoever connects in to a protocol that ``answer`` makes, until cancelled.

    ``turned_away`` is told the address of each that was not let in because it has its share of the places.
    """
    loop = asyncio.get_running_loop()
    places: Counter[str] = Counter()
    guests: set[_Connection] = set()
    left = asyncio.Event()

    async def visit(connection: socket.socket, address: str) -> None:
        guest = _Connection(answer(), rules.patience)
        try:
            await loop.connect_accepted_socket(
                lambda: guest, connection, ssl=context, ssl_handshake_timeout=_HANDSHAKE_SECONDS
            )
            guests.add(guest)
            await guest.gone.wait()
        except OSError:  # no handshake: nobody came in
            pass
        finally:
            guests.discard(guest)
            places[address] -= 1
            if not places[address]:
                del places[address]
            left.set()

    async def find_room() -> None:
        while places.total() >= rules.most:
            left.clear()
            _show_out_idle(guests, loop.time() - rules.idle)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REST_SECONDS):
                    await left.wait()

    listening.setblocking(False)
    async with asyncio.TaskGroup() as group:
        while True:
            await find_room()
            try:
                connection, (address, *_) = await loop.sock_accept(listening)
            except OSError:  # gone before it was let in, or no descriptor left
                await asyncio.sleep(_REST_SECONDS)
                continue
            if places[address] >= rules.of_one:
                connection.close()
                turned_away(address)
            else:
                places[address] += 1
                group.create_task(visit(connection, address))
            await asyncio.sleep(0)


def _show_out_idle(guests: set[_Connection], since: float) -> None:
    """The one that has been idle for longest, if it has been so ``since`` then."""
    idle = [(began, guest) for guest in guests if (began := guest.idle_since) is not None and began <= since]
    if idle:
        min(idle, key=lambda each: each[0])[1].show_out()
