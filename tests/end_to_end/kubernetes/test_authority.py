"""The whole authority in a cluster: its clock, its receipts, its replicas, and an API server that is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
from aiohttp import web

from authority.app.run import run
from tests.harness.authority.deployment import AuthorityDeployment, answers, ask, receipt
from tests.harness.kubernetes.apiserver import Answering, ApiServer, internal_error
from tests.harness.kubernetes.kinds import POD, SECRET
from tests.harness.kubernetes.node import AUDIENCE, AgentsPod, FakeNode
from tests.harness.kubernetes.selectors import selects
from tests.harness.waiting import eventually
from tidemark.verify import Mark


@asynccontextmanager
async def started(deployment: AuthorityDeployment) -> AsyncIterator[None]:
    """The authority in this process, from when it listens on."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(deployment.config, stop))

    async def listens() -> bool:
        if task.done():
            task.result()
        return (deployment.state / "api.json").exists()

    try:
        await eventually(listens, "the API to listen")
        yield
    finally:
        stop.set()
        await asyncio.gather(task)


async def failures(session: aiohttp.ClientSession) -> str:
    return " ".join(one["error"] for one in (await ask(session, "/api/v1/status"))["failures"])


async def test_authority_signs_nothing_while_the_clocks_differ(
    server: ApiServer, deployment: AuthorityDeployment
) -> None:
    server.clock = lambda: time.time() - 3600
    async with started(deployment), deployment.session(deployment.token("operator")) as session:

        async def clock_event() -> str:
            return await failures(session)

        event = await eventually(clock_event, "a word about the clock")
        assert "clock: expected it within 600 s of the API server's, found it +360" in event
        assert (await ask(session, "/api/v1/bundles"))["bundles"] == []
        assert server.store.find(SECRET, "nats", "nats-ca-tls") is None
        async with session.post("/api/v1/rotate", json={"reason": "a test"}) as response:
            assert response.status == 409
            assert "clock: expected it within" in (await response.json())["error"]

        server.clock = time.time
        await eventually(lambda: answers(session, "/readyz"), "a CA that signs, once they agree")


async def test_receipt_needs_the_token_of_its_pod(
    server: ApiServer, deployment: AuthorityDeployment, tmp_path: Path
) -> None:
    uid = server.store.put(POD, AgentsPod(FakeNode(server, tmp_path), "nats", "nats-0").body(ready=True))["metadata"][
        "uid"
    ]
    body = replace(receipt("nats-0", Mark(1, "0" * 64), None, 1), uid=uid).to_json()

    async def send(session: aiohttp.ClientSession, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with session.post("/api/v1/receipts", data=body, headers=headers) as response:
            await response.read()
            return response.status

    async def refuse(request: web.Request, handle: Answering) -> web.StreamResponse:
        return internal_error() if "tokenreviews" in request.path else await handle(request)

    ours = server.accounts.issue("nats", "nats", audience=AUDIENCE, pod=("nats-0", uid))
    other = server.store.put(POD, AgentsPod(FakeNode(server, tmp_path), "nats", "nats-1").body(ready=True))
    others = server.accounts.issue("nats", "nats", audience=AUDIENCE, pod=("nats-1", other["metadata"]["uid"]))
    async with deployment.running(), deployment.session() as session:
        assert await send(session, "") == 401
        assert await send(session, deployment.token("agent")) == 401
        assert await send(session, server.accounts.issue("nats", "nats", pod=("nats-0", uid))) == 401
        assert await send(session, others) == 403
        server.interfere = refuse
        assert await send(session, ours) == 503
        server.interfere = None

        async def is_taken() -> bool:
            return await send(session, ours) == 200

        await eventually(is_taken, "the receipt to be taken")
        agents = {one["name"]: one["received_at"] for one in (await ask(session, "/api/v1/fleet"))["agents"]}
        assert agents.keys() == {"nats/nats-0", "nats/nats-1"}
        assert agents["nats/nats-0"] is not None
        assert agents["nats/nats-1"] is None


async def test_unreadable_fleet_keeps_the_gate_closed(server: ApiServer, deployment: AuthorityDeployment) -> None:
    async def refuse(request: web.Request, handle: Answering) -> web.StreamResponse:
        return internal_error() if "/pods" in request.path else await handle(request)

    server.interfere = refuse
    async with deployment.running(), deployment.session(deployment.token("operator")) as session:
        async with session.post("/api/v1/rotate", json={"reason": "a test"}) as response:
            assert response.status == 200
        gate = (await ask(session, "/api/v1/status"))["gate"]
        assert (gate["state"], gate["closed"]) == ("waiting", "unreadable")
        assert not (await ask(session, "/api/v1/fleet"))["readable"]


async def test_authority_starts_and_continues_without_the_api_server(
    server: ApiServer, deployment: AuthorityDeployment
) -> None:
    async with deployment.running():
        server.store.delete(SECRET, "nats", "nats-ca-tls")
        await server.stop()
        await server.start()

        async def is_back() -> bool:
            return server.store.find(SECRET, "nats", "nats-ca-tls") is not None

        await eventually(is_back, "the deleted Secret")
    assert server.store.select(SECRET, "tidemark", selects("tidemark.io/history=bundle", ""))
