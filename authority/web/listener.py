"""Opens the listening sockets of the HTTPS servers, and starts aiohttp applications behind them."""

import asyncio
import logging
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from authority.config.listen import ListenAddress

_BACKLOG = 4096
"""Connections that wait to be accepted: after a rotation every agent of a large fleet makes one."""

_IDLE_SECONDS = 10.0
"""After these a connection that asks nothing is closed in all form, before the door's patience is at its end."""


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether what went wrong is ours: whoever sends what is no HTTP is answered with 400, and fills no log."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError)


_log = logging.getLogger("authority.http")


class ListenError(Exception):
    """The API cannot listen where the configuration says; the message names the address and why."""


async def listen(where: ListenAddress, key: str) -> socket.socket:
    """Take the address that the configuration says under ``key``. The caller closes the socket. Raises ListenError."""
    listening: socket.socket | None = None
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)  # so that a second one on this address is told
    except OSError as error:
        if listening is not None:
            listening.close()
        expected = f"expected to listen on {where.host}:{where.port}"
        raise ListenError(f"{key}: {expected}, found {error.strerror or error}") from None
    return listening


async def start(application: web.Application) -> tuple[web.AppRunner, Callable[[], asyncio.Protocol]]:
    """Make ready to answer; the second is what makes a connection's protocol. The caller cleans the runner up."""
    runner = web.AppRunner(
        application, logger=_log, access_log=None, shutdown_timeout=1.0, keepalive_timeout=_IDLE_SECONDS
    )
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("aiohttp: expected a server once it is set up, found none")
    return runner, runner.server
