"""The API's door: so many connections at a time, whoever comes besides waits in the kernel's queue.

A TLS connection costs 0.3 MiB here. After a rotation every agent of a large fleet makes one, and where they come faster
than they are served, what is bounded is how many are inside, never how many there are.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

MOST = 200
"""Connections at a time, agents' and others'."""

SILENT_SECONDS = 10.0

_HANDSHAKE_SECONDS = 10.0
_REST_SECONDS = 0.1


class _Guest(asyncio.Protocol):
    """Passes everything on to the protocol inside, and tells when the connection has ended."""

    def __init__(self, inside: asyncio.Protocol, left: Callable[[], None], patience: float) -> None:
        self._inside = inside
        self._left = left
        self._seconds = patience
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._patience = asyncio.get_running_loop().call_later(self._seconds, transport.abort)
        self._inside.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._cease_waiting()
        self._inside.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inside.eof_received()

    def pause_writing(self) -> None:
        self._inside.pause_writing()

    def resume_writing(self) -> None:
        self._inside.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cease_waiting()
        self._left()
        self._inside.connection_lost(exc)

    def _cease_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


async def keep(
    listening: socket.socket,
    answer: Callable[[], asyncio.Protocol],
    context: ssl.SSLContext,
    most: int = MOST,
    patience: float = SILENT_SECONDS,
) -> None:
    """Let whoever connects in to a protocol that ``answer`` makes, ``most`` at a time, until cancelled.

    Whoever has not begun to ask after ``patience`` seconds is shown out.
    """
    loop, room = asyncio.get_running_loop(), asyncio.Semaphore(most)

    async def let_in(connection: socket.socket) -> None:
        try:
            await loop.connect_accepted_socket(
                lambda: _Guest(answer(), room.release, patience),
                connection,
                ssl=context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
        except (OSError, TimeoutError):  # no handshake: nobody came in
            room.release()

    listening.setblocking(False)
    async with asyncio.TaskGroup() as group:
        while True:
            await room.acquire()
            connection = None
            while connection is None:
                with suppress(OSError):  # gone before it was let in, or no descriptor left
                    connection, _ = await loop.sock_accept(listening)
                await asyncio.sleep(0 if connection else _REST_SECONDS)
            group.create_task(let_in(connection))
