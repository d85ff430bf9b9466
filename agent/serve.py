"""The agent's own HTTP port: health for the kubelet, metrics for Prometheus, the status for people and tests."""

import json
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from agent.board import Board
from agent.status import to_json, unready, unstarted


def application(board: Board, registry: CollectorRegistry, now: Callable[[], float]) -> web.Application:
    """``/startupz``, ``/livez``, ``/readyz``: 200 or 503 with the reasons; ``/metrics``; ``/status`` as JSON."""

    async def startupz(_: web.Request) -> web.Response:
        return _health(unstarted(board.status))

    async def livez(_: web.Request) -> web.Response:
        return _health([])  # the loop turns, or there would be no answer

    async def readyz(_: web.Request) -> web.Response:
        return _health(unready(board.status, int(now())))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def status(_: web.Request) -> web.Response:
        return web.Response(text=json.dumps(to_json(board.status, int(now()))), content_type="application/json")

    app = web.Application()
    app.add_routes(
        [
            web.get("/startupz", startupz),
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/status", status),
        ]
    )
    return app


def _health(reasons: list[str]) -> web.Response:
    return web.Response(status=503 if reasons else 200, text="".join(f"{reason}\n" for reason in reasons or ["ok"]))


async def start(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Listen; the caller cleans the runner up. Raises OSError where the port is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
