"""``python -m bench.answering SERVERS PORT=DIRECTORY ...``: applications in one process, each with its own connection.

Each is connected to the servers by ``tidemark.nats`` with the set of its directory, and told of a new one on its port.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

from aiohttp import web

import tidemark.nats
from playground.layout import HOST
from tidemark.nats.endpoint import add_reload_route


async def main(servers: str, applications: list[str]) -> None:
    """Answer until cancelled."""
    async with contextlib.AsyncExitStack() as stack:
        for one in applications:
            port, _, directory = one.partition("=")
            connection = await tidemark.nats.connect(servers.split(","), directory=Path(directory))
            stack.push_async_callback(connection.close)
            application = web.Application()
            add_reload_route(application, connection)
            runner = web.AppRunner(application, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, HOST, int(port)).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], sys.argv[2:]))
