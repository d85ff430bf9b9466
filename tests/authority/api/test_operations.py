"""Requests of operators: forced rotations, and answers that come late."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from authority.api.authentication import Authenticator
from authority.api.operations import Operations
from authority.api.routes import application
from authority.api.token_files import read_tokens
from authority.app.assembly import AuthorityParts, assemble
from authority.app.backends import open_backends
from authority.controllers.command_queue import CommandQueue
from authority.election.file import FileElection
from authority.election.interface import Replica
from authority.journal.directory import DirectoryJournal
from authority.journal.record_types import StatementRecord
from authority.rotation.operator_requests import RotationRefused, WithdrawalRequest
from authority.web.connection_limit import connection_deadlines
from tests.harness.authority.api_calls import clock, mark, refusal, send
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, ask, receipt
from tests.harness.waiting import eventually


async def test_forced_rotation_runs_from_request_to_last_proven_leaf(
    deployment: AuthorityDeployment,
    reader: aiohttp.ClientSession,
    agent: aiohttp.ClientSession,
    operator: aiohttp.ClientSession,
) -> None:
    before = clock()
    async with operator.post("/api/v1/rotate", json={"reason": "key suspected"}) as response:
        made = await response.json()
    assert made["sequence"] == 2

    async def published() -> Any:
        bundle = await deployment.bundle("app-0")
        return bundle if bundle.sequence == 2 else None

    bundle = await eventually(published, "the second statement in the mount")
    assert bundle.statement.anchors[0].sha256 == made["ca"]
    status = await ask(reader, "/api/v1/status")
    assert status["gate"]["state"] == "waiting"
    assert sorted(status["gate"]["waiting"]) == sorted(AGENTS)

    old = {name: deployment.leaf(name) for name in AGENTS}
    for name in AGENTS:
        assert await send(agent, receipt(name, mark(bundle), old[name], 1).to_json()) == {"newest_sequence": 2}
    for name in AGENTS:
        await eventually(partial(deployment.has_leaf_of, name, made["ca"]), "a leaf of the new CA")
    newest = (await ask(reader, "/api/v1/bundles"))["bundles"][0]
    assert newest["sequence"] == 2
    assert newest["cause"] == "forced"
    assert newest["ca"] == made["ca"]
    assert newest["opening"] == "gate"
    assert newest["activated_at"] is not None
    assert before <= newest["published_at"] <= min(newest["proven"].values())
    assert set(newest["proven"]) == set(AGENTS)
    assert newest["leaf_proven"] == {}

    for name in AGENTS:
        await send(agent, receipt(name, mark(bundle), deployment.leaf(name), 2).to_json())
    first, *_, last = (await ask(reader, "/api/v1/bundles"))["bundles"]
    assert set(first["leaf_proven"]) == set(AGENTS)
    assert first["proven"] == newest["proven"]  # the first receipt counts
    assert last["sequence"] == 1
    assert last["opening"] == "bootstrap"
    status = await ask(reader, "/api/v1/status")
    assert status["signing"]["sha256"] == made["ca"]
    assert status["fleet"]["proven"] == 2

    entries = await DirectoryJournal(deployment.state / "journal").read()
    (forced,) = [e.record for e in entries if isinstance(e.record, StatementRecord) and e.record.who]
    assert (forced.who, forced.reason) == ("operator from 127.0.0.1", "key suspected")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "rotate: expected one JSON object"),
        (b"{}", "rotate: field 'reason': expected a str, found no such field"),
        (b'{"reason": " "}', "rotate: field 'reason': expected why, found nothing"),
        (json.dumps({"reason": "x" * 501}).encode(), "rotate: field 'reason': expected at most 500 characters"),
    ],
)
async def test_rotation_without_a_reason_is_refused(
    operator: aiohttp.ClientSession, body: bytes, sentence: str
) -> None:
    status, found = await refusal(operator, "POST", "/api/v1/rotate", data=body)
    assert status == 400
    assert found.startswith(sentence)


async def test_more_forced_rotations_than_a_bundle_holds_are_refused(tmp_path: Path) -> None:
    many = "[clock]\nvalidity_seconds = 28800\n"  # 24 epochs: the CAs to come need most of the room
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="testing", more=many)
    deployment.init()
    async with deployment.running(clock), deployment.session(deployment.token("operator")) as operator:
        status = 200
        while status == 200:
            async with operator.post("/api/v1/rotate", json={"reason": "again"}) as response:
                status, answer = response.status, await response.json()
    assert status == 409
    assert answer["error"].startswith("forced rotation: expected the bundles of the coming epochs to hold at most 64")
    assert (await deployment.bundle("nats-0")).sequence > 30


class StuckQueue:
    """Carries out no request in time; only ``rotate`` has begun when its answer is late."""

    def __init__(self) -> None:
        self.commands = CommandQueue[list[str]](
            (RotationRefused,), lambda error: RotationRefused(str(error)), answer_seconds=0.01
        )
        self.done: list[str] = []
        self.may_go_on = asyncio.Event()
        self.beginning = asyncio.Event()

    async def serve(self) -> None:
        await self.beginning.wait()
        while self.commands:
            await self.commands.run_next(self.done)

    async def ask(self, name: str) -> dict[str, Any]:
        async def carry_out(done: list[str]) -> dict[str, Any]:
            await self.may_go_on.wait()
            done.append(name)
            return {}

        return await self.commands.submit(carry_out)


@dataclass(frozen=True)
class StuckOperations(Operations):
    """Operations whose rotation controller has no time for requests, but begins with what ``rotate`` asks for."""

    queue: StuckQueue

    async def rotate(self, who: str, reason: str) -> dict[str, Any]:
        self.queue.beginning.set()
        return await self.queue.ask("rotate")

    async def override(self, who: str, reason: str) -> dict[str, Any]:
        return await self.queue.ask("override")

    async def withdraw(self, who: str, reason: str, wanted: WithdrawalRequest) -> dict[str, Any]:
        return await self.queue.ask("withdraw")


@asynccontextmanager
async def stuck_api(tmp_path: Path, queue: StuckQueue) -> AsyncIterator[web.Application]:
    """The API of an authority that is assembled and does not run."""
    deployment = AuthorityDeployment.create(tmp_path, preset="testing")
    deployment.init()
    config = deployment.config
    election = FileElection(Replica("one", "https://one"), config.election.directory, lambda _: None, 5)
    async with open_backends(config, time.time) as backends:
        parts = AuthorityParts(config, await deployment.trust(), backends, election, None, time.time)
        assembly = assemble(parts, [])
        real = assembly.operations
        operations = StuckOperations(real.rotation, real.registry, real.clock, queue)
        authenticator = Authenticator(read_tokens(config.state), open_reads=True)
        yield application(assembly.queries, operations, authenticator)


async def test_late_request_is_withdrawn_or_its_answer_says_that_it_may_be_done(tmp_path: Path) -> None:
    queue = StuckQueue()
    serving = asyncio.create_task(queue.serve())
    async with (
        stuck_api(tmp_path, queue) as api,
        TestServer(api) as server,
        aiohttp.ClientSession(server.make_url("/")) as session,
    ):
        assert connection_deadlines in api.middlewares  # or a slow answer would be cut off
        headers = {"Authorization": f"Bearer {(tmp_path / 'state/tokens/operator').read_text().strip()}"}
        refused = partial(refusal, session, "POST", json={"reason": "in vain"}, headers=headers)
        for path, name in (("override", "override"), ("revoke", "revocation")):
            assert await refused(path=f"/api/v1/{path}") == (
                503,
                f"{name}: expected its turn within 0.01 s, found none: it is withdrawn, nothing was done; status says "
                f"what failed",
            )
        assert await refused(path="/api/v1/rotate") == (
            503,
            "rotate: expected it to be done within 0.01 s, found it still under way: it may be done yet, so look at "
            "status before you try again",
        )
        assert await refusal(session, "GET", "/readyz") == (503, "expected a CA that signs, found none yet")
    queue.may_go_on.set()
    await serving
    assert queue.done == ["rotate"]
