"""A web service: takes orders over HTTP and publishes them as events, each stored once.

The agent tells it with ``POST /-/reload``: target ``http://127.0.0.1:8080/-/reload``. Prometheus asks for ``/metrics``.

    python examples/web.py --servers tls://nats:4222 --directory /var/run/tidemark --port 8080
"""

import argparse
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

import tidemark.nats
from tidemark.nats.endpoint import add_reload_route

CONNECTION = web.AppKey("connection", tidemark.nats.Connection)


async def take_order(request: web.Request) -> web.Response:
    """Store the order; a client that repeats it with the same ``Idempotency-Key`` stores it once."""
    order = await request.read()
    key = request.headers.get("Idempotency-Key")
    jetstream = request.app[CONNECTION].jetstream()
    stored = await jetstream.publish("orders.created", order, headers={"Nats-Msg-Id": key} if key else None)
    return web.json_response({"sequence": stored.seq}, status=201)


async def metrics(request: web.Request) -> web.Response:
    """Everything in the process's registry, the connection's reloads among it."""
    return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def application(servers: str, directory: str) -> web.Application:
    """The connection is made first, as the reload route needs it, and closed with the application."""
    app = web.Application()
    connection = await tidemark.nats.connect(servers.split(","), directory=directory, name="web", registry=REGISTRY)
    app[CONNECTION] = connection
    app.router.add_post("/orders", take_order)
    app.router.add_get("/metrics", metrics)
    add_reload_route(app, connection)

    async def close(_: web.Application) -> AsyncIterator[None]:
        yield
        await connection.close()

    app.cleanup_ctx.append(close)
    return app


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True, help="NATS URLs, separated by commas")
    parser.add_argument("--directory", required=True, help="the agent's output directory")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    web.run_app(application(options.servers, options.directory), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
