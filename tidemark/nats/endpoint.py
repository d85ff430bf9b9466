"""``POST /-/reload``: how the agent tells an application that a set was installed, and hears what it uses now.

The request is ``{"sequence", "ca_sha256", "leaf_sha256"?, "directory"}``; digests are lower-case hex, and ``directory``
is the agent's own name for it, which may be mounted elsewhere here. Answers, all JSON:

- 200 ``{"ca_sha256", "leaf_sha256"}``: every connection uses these now, and they are the ones asked for;
- 400: the request is not understood;
- 409: reloaded, but this application's directory holds another set than the one asked for;
- 503: a connection could not reload, and goes on as before.

Those that are not 200 have ``{"error": <a sentence>}`` and, except 400, the digests in use.
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
    """A ``tidemark.nats.Connection``, as far as this endpoint is concerned."""

    @property
    def ca_sha256(self) -> str:
        """Digest of the CA bundle in use."""

    @property
    def leaf_sha256(self) -> str:
        """Digest of the leaf in use."""

    async def reload(self) -> None:
        """Move to the set that is installed now, or raise ``ReloadFailed``."""


@dataclass(frozen=True, slots=True)
class _Asked:
    ca_sha256: str
    leaf_sha256: str | None
    directory: str


def add_reload_route(app: web.Application, *connections: Reloadable) -> None:
    """Let ``POST /-/reload`` of this application reload these connections."""
    if not connections:
        raise TypeError("add_reload_route: expected a connection or more, found none")

    async def reload(request: web.Request) -> web.Response:
        try:
            asked = _parse(await request.json())
        except (ValueError, TypeError) as error:
            return web.json_response({"error": f"{PATH}: {error}"}, status=400)
        return await _reload(connections, asked)

    app.router.add_post(PATH, reload)


async def serve_reload(*connections: Reloadable, host: str = "127.0.0.1", port: int) -> web.AppRunner:
    """Serve ``POST /-/reload`` on a port of its own (0: any). ``cleanup()`` of what it returns stops it.

    It asks nobody for a password: keep it on the loopback interface, which the containers of a pod share.
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


def _parse(body: Any) -> _Asked:
    if not isinstance(body, dict):
        raise TypeError(f"expected a JSON object, found {type(body).__name__}")
    asked = _Asked(body.get("ca_sha256", ""), body.get("leaf_sha256"), body.get("directory", ""))
    for name, value in (("ca_sha256", asked.ca_sha256), ("leaf_sha256", asked.leaf_sha256 or "0" * 64)):
        if not isinstance(value, str) or len(value) != 64:
            raise ValueError(f"{name}: expected 64 hex digits, found {value!r:.80}")
    return asked


async def _reload(connections: Sequence[Reloadable], asked: _Asked) -> web.Response:
    results = await asyncio.gather(*(one.reload() for one in connections), return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    for error in failed:
        if not isinstance(error, ReloadFailed):
            raise error
    now = {"ca_sha256": connections[0].ca_sha256, "leaf_sha256": connections[0].leaf_sha256}
    if failed:
        return web.json_response({"error": "; ".join(map(str, failed))} | now, status=503)
    for one in connections:
        now = {"ca_sha256": one.ca_sha256, "leaf_sha256": one.leaf_sha256}
        for name, wanted in (("ca_sha256", asked.ca_sha256), ("leaf_sha256", asked.leaf_sha256)):
            if wanted is not None and now[name] != wanted:
                sentence = f"expected {name} {wanted}, found {now[name]} in this application's directory"
                sentence += f" (asked for {asked.directory!s:.200})" if asked.directory else ""
                return web.json_response({"error": sentence} | now, status=409)
    return web.json_response(now)
