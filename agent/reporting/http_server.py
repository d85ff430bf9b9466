"""The agent's own HTTP port: health for the kubelet, metrics for Prometheus, the status for operators and tests."""

import json
from collections.abc import Callable

from aiohttp.web_app import Application  # not aiohttp.web, which brings a command line along
from aiohttp.web_request import Request
from aiohttp.web_response import Response
from aiohttp.web_routedef import get
from aiohttp.web_runner import AppRunner, TCPSite
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from agent.reporting.status import to_json, unready, unstarted
from agent.reporting.status_store import StatusStore


def application(status_store: StatusStore, registry: CollectorRegistry, now: Callable[[], float]) -> Application:
    """``/startupz``, ``/livez``, ``/readyz``: 200 or 503 with the reasons; ``/metrics``; ``/status`` as JSON."""

    async def startupz(_: Request) -> Response:
        return _health(unstarted(status_store.status))

    async def livez(_: Request) -> Response:
        return _health([])  # an answer at all says that the event loop runs

    async def readyz(_: Request) -> Response:
        return _health(unready(status_store.status, int(now())))

    async def metrics(_: Request) -> Response:
        return Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def status(_: Request) -> Response:
        return Response(text=json.dumps(to_json(status_store.status, int(now()))), content_type="application/json")

    app = Application()
    app.add_routes(
        [
            get("/startupz", startupz),
            get("/livez", livez),
            get("/readyz", readyz),
            get("/metrics", metrics),
            get("/status", status),
        ]
    )
    return app


def _health(reasons: list[str]) -> Response:
    return Response(status=503 if reasons else 200, text="".join(f"{reason}\n" for reason in reasons or ["ok"]))


async def start(app: Application, host: str, port: int) -> AppRunner:
    """Listen on ``host`` and ``port``; the caller cleans the runner up. Raises OSError where the port is taken."""
    runner = AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
