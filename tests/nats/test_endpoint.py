"""The reload endpoint, as the agent calls it: what it uses now, or a sentence that says why it could not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, connect_eventually
from tidemark.nats import Connection
from tidemark.nats.endpoint import add_reload_route, serve_reload


@asynccontextmanager
async def served(*connections: Connection) -> AsyncIterator[str]:
    runner = await serve_reload(*connections, port=0)
    try:
        host, port = runner.addresses[0][:2]
        assert host == "127.0.0.1"
        yield f"http://{host}:{port}/-/reload"
    finally:
        await runner.cleanup()


async def request_reload(url: str, output: InstalledOutput, **more: Any) -> tuple[int, dict[str, Any]]:
    ca, leaf = output.digests()
    body = {"sequence": 7, "ca_sha256": ca, "leaf_sha256": leaf, "directory": str(output.path)} | more
    async with aiohttp.request("POST", url, json=body) as answer:
        return answer.status, await answer.json()


async def test_answer_has_the_digests_in_use(
    connection: Connection, output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    async with served(connection) as url:
        output.install(first.pem, *second.leaf())
        ca, leaf = output.digests()
        assert await request_reload(url, output) == (200, {"ca_sha256": ca, "leaf_sha256": leaf})
        assert (connection.ca_sha256, connection.leaf_sha256) == (ca, leaf)
        assert await request_reload(url, output) == (200, {"ca_sha256": ca, "leaf_sha256": leaf})


async def test_request_without_a_leaf_is_answered(connection: Connection, output: InstalledOutput) -> None:
    async with served(connection) as url:
        status, _ = await request_reload(url, output, leaf_sha256=None)
    assert status == 200


async def test_other_set_than_requested_is_a_conflict(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    async with served(connection) as url:
        output.install(first.pem, *first.leaf())
        ca, leaf = output.digests()
        for wrong in ("ca_sha256", "leaf_sha256"):
            status, answer = await request_reload(url, output, **{wrong: "0" * 64})
            assert status == 409
            assert f"expected {wrong} {'0' * 64}" in answer["error"]
            assert str(output.path) in answer["error"]
            assert (answer["ca_sha256"], answer["leaf_sha256"]) == (ca, leaf)


async def test_failed_reload_answers_with_the_digests_still_in_use(
    connection: Connection, output: InstalledOutput, first: ClusterCa, stranger: ClusterCa
) -> None:
    before = {"ca_sha256": connection.ca_sha256, "leaf_sha256": connection.leaf_sha256}
    async with served(connection) as url:
        output.install(first.pem, *stranger.leaf())
        status, answer = await request_reload(url, output)
        assert status == 503
        assert "step 'connect'" in answer.pop("error")
        assert answer == before


async def test_one_connection_on_another_set_is_a_conflict(
    lone: NatsServers, connection: Connection, output: InstalledOutput, tmp_path: Path, first: ClusterCa
) -> None:
    other = InstalledOutput(tmp_path / "other")
    other.install(first.pem, *first.leaf())
    async with (
        await connect_eventually(lone.urls, output) as also,
        await connect_eventually(lone.urls, other) as elsewhere,
    ):
        output.install(first.pem, *first.leaf())
        async with served(connection, also) as url:
            status, _ = await request_reload(url, output)
            assert status == 200
            assert {connection.leaf_sha256, also.leaf_sha256} == {output.digests()[1]}
        async with served(connection, elsewhere) as url:
            status, answer = await request_reload(url, output)
            assert status == 409
            assert answer["leaf_sha256"] == other.digests()[1]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "Expecting"),
        (b"[]", "expected a JSON object, found list"),
        (b"{}", "ca_sha256: expected 64 hex digits"),
        (b'{"ca_sha256": 5}', "ca_sha256: expected 64 hex digits"),
        (b'{"ca_sha256": "%s", "leaf_sha256": "short"}' % (b"0" * 64), "leaf_sha256: expected 64 hex digits"),
        (b"\xff", "decode"),
    ],
)
async def test_malformed_request_is_answered_with_400(connection: Connection, body: bytes, complaint: str) -> None:
    async with served(connection) as url, aiohttp.request("POST", url, data=body) as answer:
        assert answer.status == 400
        assert complaint in (await answer.json())["error"]


async def test_only_post_to_the_path_is_answered(connection: Connection) -> None:
    async with served(connection) as url:
        async with aiohttp.request("GET", url) as answer:
            assert answer.status == 405
        async with aiohttp.request("POST", url + "/other") as answer:
            assert answer.status == 404


async def test_route_works_in_an_application(connection: Connection, output: InstalledOutput, first: ClusterCa) -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    add_reload_route(app, connection)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        output.install(first.pem, *first.leaf())
        assert (await request_reload(f"{url}/-/reload", output))[0] == 200
        async with aiohttp.request("GET", url) as answer:
            assert await answer.text() == "hello"
    finally:
        await runner.cleanup()


def test_route_without_a_connection_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a connection"):
        add_reload_route(web.Application())


async def test_taken_port_is_an_error(connection: Connection) -> None:
    async with served(connection) as url:
        with pytest.raises(OSError, match="address already in use"):
            await serve_reload(connection, port=int(url.split(":")[2].split("/")[0]))
