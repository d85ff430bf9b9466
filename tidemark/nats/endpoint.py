"""``POST /-/reload``: the agent asks an application to use the set that was installed; the answer says what is in use.

The request is ``{"sequence", "ca_sha256", "leaf_sha256"?, "directory"}``. Digests are 64 lower-case hex digits, as in
``InstalledSet``. ``directory`` is the agent's path of its output directory, which may be mounted elsewhere in this
container; errors quote it. Answers, all JSON:

- 200 ``{"ca_sha256", "leaf_sha256"}``: every connection uses these now, and they are those of the request;
- 400: the request is not understood;
- 409: the connections reloaded, but this application's directory holds another set than the request names;
- 503: a connection failed to reload, and stays as it was before.

Answers other than 200 have ``{"error": <a sentence>}`` and, except 400, the digests in use.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from tidemark.nats.errors import ReloadFailed

PATH = "/-/reload"
_LARGEST = 16 * 1024  # bytes in a request


class Reloadable(Protocol):
    """What this endpoint uses of a ``tidemark.nats.Connection``."""

    @property
    def ca_sha256(self) -> str:
        """Digest of the ``ca.crt`` in use, as 64 lower-case hex digits."""

    @property
    def leaf_sha256(self) -> str:
        """Digest of the leaf in use, as 64 lower-case hex digits."""

    async def reload(self) -> None:
        """Move to the set that is installed now. Raises ReloadFailed."""


@dataclass(frozen=True, slots=True)
class _ReloadRequest:
    ca_sha256: str
    leaf_sha256: str | None
    directory: str


def add_reload_route(app: web.Application, *connections: Reloadable) -> None:
    """Add the route ``POST /-/reload``, which reloads these connections, to an application.

    Raises:
        TypeError: no connection was given.
    """
    if not connections:
        raise TypeError("add_reload_route: expected a connection or more, found none")

    async def reload(request: web.Request) -> web.Response:
        try:
            wanted = _parse(await request.json())
        except (ValueError, TypeError) as error:
            return web.json_response({"error": f"{PATH}: {error}"}, status=400)
        return await _reload(connections, wanted)

    app.router.add_post(PATH, reload)


async def serve_reload(*connections: Reloadable, host: str = "127.0.0.1", port: int) -> web.AppRunner:
    """Serve ``POST /-/reload`` on a port of its own (0: any free port); ``cleanup()`` of the runner stops it.

    The route has no authentication: keep it on the loopback interface, which the containers of a pod share.

    Raises:
        OSError: the port is taken.
        TypeError: no connection was given.
    """
    app = web.Application(client_max_size=_LARGEST)
    add_reload_route(app, *connections)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


def _parse(body: Any) -> _ReloadRequest:
    if not isinstance(body, dict):
        raise TypeError(f"expected a JSON object, found {type(body).__name__}")
    wanted = _ReloadRequest(body.get("ca_sha256", ""), body.get("leaf_sha256"), body.get("directory", ""))
    for name, value in (("ca_sha256", wanted.ca_sha256), ("leaf_sha256", wanted.leaf_sha256 or "0" * 64)):
        if not isinstance(value, str) or len(value) != 64:
            raise ValueError(f"{name}: expected 64 hex digits, found {value!r:.80}")
    return wanted


async def _reload(connections: Sequence[Reloadable], wanted: _ReloadRequest) -> web.Response:
    results = await asyncio.gather(*(connection.reload() for connection in connections), return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    for error in failed:
        if not isinstance(error, ReloadFailed):
            raise error
    in_use = _in_use(connections[0])
    if failed:
        return web.json_response({"error": "; ".join(map(str, failed))} | in_use, status=503)
    for connection in connections:
        in_use = _in_use(connection)
        for name, digest in (("ca_sha256", wanted.ca_sha256), ("leaf_sha256", wanted.leaf_sha256)):
            if digest is not None and in_use[name] != digest:
                sentence = f"expected {name} {digest}, found {in_use[name]} in this application's directory"
                sentence += f" (asked for {wanted.directory!s:.200})" if wanted.directory else ""
                return web.json_response({"error": sentence} | in_use, status=409)
    return web.json_response(in_use)


def _in_use(connection: Reloadable) -> dict[str, str]:
    return {"ca_sha256": connection.ca_sha256, "leaf_sha256": connection.leaf_sha256}
