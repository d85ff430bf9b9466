"""Opens the listening sockets of the HTTPS servers, and starts aiohttp applications behind them."""

import asyncio
import logging
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_BACKLOG = 4096
"""Connections that wait to be accepted: after a rotation every agent of a large fleet makes one."""

_IDLE_SECONDS = 10.0
"""After these aiohttp closes an idle connection in good order, before its deadline (``connection_limit``) aborts it."""


def _is_own_fault(record: logging.LogRecord) -> bool:
    """False for a client that sends no HTTP: the answer is 400, and strangers fill no log."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError)


_log = logging.getLogger("authority.http")
_log.addFilter(_is_own_fault)


class ListenError(Exception):
    """The server cannot listen where the configuration says; the message names the key, the address and why."""


async def listen(host: str, port: int, key: str) -> socket.socket:
    """Bind the address that the configuration has under ``key``. The caller closes the socket. Raises ListenError."""
    listening: socket.socket | None = None
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # At once: a second authority on this address learns it now, not at its first accept.
        listening.listen(_BACKLOG)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise ListenError(f"{key}: expected to listen on {host}:{port}, found {error.strerror or error}") from None
    return listening


async def start(application: web.Application) -> tuple[web.AppRunner, Callable[[], asyncio.Protocol]]:
    """Set an application up; returns its runner, which the caller cleans up, and what makes a connection's protocol."""
    runner = web.AppRunner(
        application, logger=_log, access_log=None, shutdown_timeout=1.0, keepalive_timeout=_IDLE_SECONDS
    )
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("aiohttp: expected a server once it is set up, found none")
    return runner, runner.server
