"""Ends servers of aiohttp so that nothing of theirs outlives the test's event loop."""

import asyncio
from contextlib import suppress

from aiohttp import web


async def end(runner: web.AppRunner) -> None:
    """Clean up, then abort what is still open.

    A TLS connection closes only after the peer's closing words. A peer that was killed or paused sends none, and the
    connection would be reported as unclosed in a later test.
    """
    connections = runner.server.connections if runner.server is not None else []
    transports = [connection.transport for connection in connections if connection.transport is not None]
    await runner.cleanup()
    for transport in transports:
        # A TLS stream that has ended has nothing to abort: Python 3.11.2 raises AttributeError then.
        with suppress(AttributeError):
            transport.abort()
    await asyncio.sleep(0)  # one turn of the loop, in which the aborted connections close their sockets
