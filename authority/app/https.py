"""Serves an aiohttp application over HTTPS, with a limit on connections."""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import web

from authority.app.failure_log import log, log_failure
from authority.pki.keystore import KeystoreError
from authority.pki.server_certificate import ServerCertificate
from authority.support.tasks import Task
from authority.web import connection_limit
from authority.web.listener import start


@asynccontextmanager
async def serving(
    name: str, application: web.Application, listening: socket.socket, certificate: ServerCertificate
) -> AsyncIterator[Task]:
    """Start the application; yields the task that accepts connections. ``name`` is the server's name in log lines."""
    runner, protocol_factory = await start(application)
    try:
        yield partial(
            connection_limit.serve, listening, protocol_factory, certificate.context, partial(_log_limit_reached, name)
        )
    finally:
        await runner.cleanup()


def log_renewal_failure(server: str, error: KeystoreError) -> None:
    """Log that the certificate of this server could not be renewed."""
    log_failure("certificate_renewal_failed", error, level=logging.ERROR, server=server)


def _log_limit_reached(server: str, address: str) -> None:
    log.warning("connection_limit_reached", extra={"fields": {"server": server, "address": address}})
