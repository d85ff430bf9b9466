"""The API of a whole authority in this process, over real HTTPS, as agents, operators and strangers use it."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
from authority.support.log_format import RepeatFilter
from authority.web.connection_limit import connection_deadlines
from authority.web.listener import ListenError
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, answers, ask, receipt
from tests.harness.waiting import eventually
from tidemark.certificates import not_after
from tidemark.receipt import MAX_BYTES
from tidemark.verify import Mark, VerifiedBundle

EPOCH = 1200  # seconds, of the preset "testing"
EARLY = 60 - time.time() % EPOCH  # makes it a minute past the start of the epoch, so that nothing is due meanwhile


def clock() -> float:
    return time.time() + EARLY


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[AuthorityDeployment]:
    deployment = AuthorityDeployment.create(tmp_path / "house", preset="testing")
    deployment.init()
    async with deployment.running(clock):
        yield deployment


@pytest.fixture
async def reader(deployment: AuthorityDeployment) -> AsyncIterator[aiohttp.ClientSession]:
    async with deployment.session() as session:
        yield session


@pytest.fixture
async def agent(deployment: AuthorityDeployment) -> AsyncIterator[aiohttp.ClientSession]:
    async with deployment.session(deployment.token("agent")) as session:
        yield session


@pytest.fixture
async def operator(deployment: AuthorityDeployment) -> AsyncIterator[aiohttp.ClientSession]:
    async with deployment.session(deployment.token("operator")) as session:
        yield session


async def refusal(session: aiohttp.ClientSession, method: str, path: str, **what: Any) -> tuple[int, str]:
    async with session.request(method, path, **what) as response:
        return response.status, (await response.json())["error"]


async def send(session: aiohttp.ClientSession, data: bytes) -> Any:
    async with session.post("/api/v1/receipts", data=data) as response:
        response.raise_for_status()
        return await response.json()


def mark(bundle: VerifiedBundle) -> Mark:
    return Mark(bundle.sequence, bundle.digest)


async def test_first_start_publishes_a_bundle_and_leaves(
    deployment: AuthorityDeployment, reader: aiohttp.ClientSession
) -> None:
    for path in ("/livez", "/readyz"):
        assert await answers(reader, path)
    status = await ask(reader, "/api/v1/status")
    bundle = await deployment.bundle("nats-0")
    started = int(clock()) // EPOCH * EPOCH
    assert status["trust_domain"] == "bus.example.com"
    assert status["epoch"] == {
        "number": started // EPOCH,
        "started": started,
        "ends": started + EPOCH,
        "prepare_at": started + EPOCH - 300,
    }
    assert status["signing"]["sha256"] == bundle.statement.anchors[0].sha256
    assert status["signing"]["not_after"] == started + 4 * EPOCH
    assert status["newest"]["sequence"] == 1
    assert status["newest"]["digest"] == bundle.digest
    assert status["gate"] == {"state": "idle", "waiting": []}
    assert status["fleet"]["missing"] == 2
    assert [event["number"] for event in status["events"]] == list(range(1, len(status["events"]) + 1))
    assert {"prepared", "activated"} <= {event["event"] for event in status["events"]}
    assert status["failures"] == []


async def test_status_shows_leaves_and_publishers(
    deployment: AuthorityDeployment, reader: aiohttp.ClientSession
) -> None:
    async def written() -> Any:
        status = await ask(reader, "/api/v1/status")
        return status if all(leaf["not_after"] for leaf in status["leaves"]) else None

    status = await eventually(written, "both leaves")
    assert [leaf["name"] for leaf in status["leaves"]] == list(AGENTS)
    for leaf in status["leaves"]:
        assert leaf["not_after"] == not_after(deployment.leaf(leaf["name"]).certificate)
        assert leaf["issuer_epoch"] == status["epoch"]["number"]
        assert leaf["target"] == str(deployment.root / leaf["name"] / "leaf")
        assert leaf["error"] == ""
    (publisher,) = status["publishers"]
    assert (publisher["name"], publisher["sequence"], publisher["error"]) == ("directory", 1, "")
    assert publisher["outcome"] in {"written", "unchanged"}


async def test_api_is_verified_by_the_control_ca_alone(deployment: AuthorityDeployment) -> None:
    bundle = await deployment.bundle("nats-0")
    for context in (ssl.create_default_context(), ssl.create_default_context(cadata=bundle.bundle.ca.decode())):
        async with aiohttp.ClientSession(deployment.url) as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get("/livez", ssl=context)


async def test_certificate_of_an_intermediate_ca_gives_no_access(deployment: AuthorityDeployment) -> None:
    ca = (await deployment.bundle("nats-0")).statement.anchors[0].sha256
    await eventually(partial(deployment.has_leaf_of, "nats-0", ca), "the leaf")
    context = await deployment.context()
    context.load_cert_chain(deployment.root / "nats-0/leaf/tls.crt", deployment.root / "nats-0/leaf/tls.key")
    async with aiohttp.ClientSession(deployment.url, connector=aiohttp.TCPConnector(ssl=context)) as session:
        for path in ("/api/v1/receipts", "/api/v1/rotate"):
            status, sentence = await refusal(session, "POST", path, json={"reason": "I have a certificate"})
            assert (status, sentence) == (401, f"{path}: expected a bearer token, found none")
    assert (await deployment.bundle("nats-0")).sequence == 1


async def test_deleted_token_gives_no_access(deployment: AuthorityDeployment) -> None:
    alice = deployment.state / "tokens" / "operator-alice"
    alice.write_text("a" * 40)
    async with deployment.session("a" * 40) as session:

        async def answered(status: int) -> bool:
            return (await refusal(session, "POST", "/api/v1/rotate", json={}))[0] == status

        await eventually(partial(answered, 400), "the token to count")
        alice.unlink()
        await eventually(partial(answered, 401), "the token to be worth nothing")


async def test_each_role_has_its_own_token(
    deployment: AuthorityDeployment, agent: aiohttp.ClientSession, operator: aiohttp.ClientSession
) -> None:
    assert await refusal(operator, "POST", "/api/v1/receipts", data=b"{}") == (
        403,
        "/api/v1/receipts: expected the token of an agent, found that of operator",
    )
    assert await refusal(agent, "POST", "/api/v1/rotate", json={"reason": "why not"}) == (
        403,
        "/api/v1/rotate: expected the token of an operator, found that of agent",
    )
    for wrong in ("x", deployment.token("agent")[:-1], "ä" * 40):
        async with aiohttp.ClientSession(
            deployment.url, connector=aiohttp.TCPConnector(ssl=await deployment.context())
        ) as stranger:
            status, sentence = await refusal(
                stranger, "POST", "/api/v1/receipts", headers={"Authorization": f"Bearer {wrong}"}
            )
        assert (status, sentence) == (401, "/api/v1/receipts: expected a bearer token, found one that is not known")


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "receipt: expected one JSON object, found text that is none"),
        (b"[]", 400, "receipt: document: expected a JSON object, found list"),
        (b'{"pod": "nats-0"}', 400, "receipt: field 'uid': expected a str, found no such field"),
        (b" " * (MAX_BYTES + 1), 413, "Maximum request body size"),
    ],
)
async def test_bad_receipt_is_refused_with_the_reason(
    agent: aiohttp.ClientSession, body: bytes, status: int, sentence: str
) -> None:
    found = await refusal(agent, "POST", "/api/v1/receipts", data=body)
    assert found[0] == status
    assert found[1].startswith(sentence)


async def test_receipt_of_an_unexpected_agent_is_refused(
    deployment: AuthorityDeployment, agent: aiohttp.ClientSession
) -> None:
    stranger = receipt("nats-9", mark(await deployment.bundle("nats-0")), None, 1)
    status, sentence = await refusal(agent, "POST", "/api/v1/receipts", data=stranger.to_json())
    assert status == 403
    assert sentence.startswith("receipt of 'nats-9': expected an agent that the configuration names")


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


async def test_fleet_has_the_last_receipt_of_each_agent(
    deployment: AuthorityDeployment, reader: aiohttp.ClientSession, agent: aiohttp.ClientSession
) -> None:
    sent = receipt("nats-0", mark(await deployment.bundle("nats-0")), None, 1)
    await send(agent, sent.to_json())
    nats, application = (await ask(reader, "/api/v1/fleet"))["agents"]
    assert (nats["name"], nats["class"], nats["state"], nats["fresh"]) == ("nats-0", "required", "proven", True)
    assert nats["receipt"] == json.loads(sent.to_json())
    assert (application["state"], application["receipt"]) == ("missing", None)


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
    deployment = AuthorityDeployment.create(tmp_path / "house", preset="testing", more=many)
    deployment.init()
    async with deployment.running(clock), deployment.session(deployment.token("operator")) as operator:
        status = 200
        while status == 200:
            async with operator.post("/api/v1/rotate", json={"reason": "again"}) as response:
                status, answer = response.status, await response.json()
    assert status == 409
    assert answer["error"].startswith("forced rotation: expected the bundles of the coming epochs to hold at most 64")
    assert (await deployment.bundle("nats-0")).sequence > 30


async def test_connection_is_closed_after_a_receipt(
    deployment: AuthorityDeployment, agent: aiohttp.ClientSession
) -> None:
    """Ten thousand agents report once a minute each: every connection that waits for the next would cost memory."""
    body = receipt("nats-0", mark(await deployment.bundle("nats-0")), None, 1).to_json()
    async with agent.post("/api/v1/receipts", data=body) as response:
        assert response.headers["Connection"] == "close"


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


async def test_pod_that_takes_every_connection_keeps_no_receipt_out(
    deployment: AuthorityDeployment, agent: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    context, where = await deployment.context(), urlsplit(deployment.url)
    hostile: list[asyncio.StreamWriter] = []
    for _ in range(210):  # there are 200 places
        with suppress(OSError):
            _, writer = await asyncio.open_connection(
                where.hostname, where.port, ssl=context, local_addr=("127.0.0.2", 0)
            )
            writer.write(b"P")
            hostile.append(writer)
    proven = mark(await deployment.bundle("nats-0"))
    assert await send(agent, receipt("nats-0", proven, None, 1).to_json()) == {"newest_sequence": 1}
    repeats = RepeatFilter()
    lines = [record for record in caplog.records if record.message == "connection_limit_reached"]
    (line,) = [record for record in lines if repeats.filter(record)]
    assert line.__dict__["fields"] == {"server": "api", "address": "127.0.0.2"}
    assert 0 < len(hostile) <= 50
    for writer in hostile:
        writer.transport.abort()


async def test_unreadable_journal_is_in_the_status_until_it_is_readable(
    deployment: AuthorityDeployment, reader: aiohttp.ClientSession
) -> None:
    (deployment.state / "journal").rename(deployment.state / "away")

    async def failures() -> Any:
        return (await ask(reader, "/api/v1/status"))["failures"]

    async with deployment.session(deployment.token("agent")) as agent:  # a receipt has the sequencer look again
        await send(agent, receipt("nats-0", mark(await deployment.bundle("nats-0")), None, 1).to_json())
    (failure,) = await eventually(failures, "the failure in the status")
    assert failure["step"] == "journal"
    assert "No such file or directory" in failure["error"]
    (deployment.state / "away").rename(deployment.state / "journal")

    async def mended() -> bool:
        return not await failures()

    await eventually(mended, "the journal to be read again")


async def test_bundle_is_found_by_its_sequence(deployment: AuthorityDeployment, reader: aiohttp.ClientSession) -> None:
    bundle = await deployment.bundle("nats-0")
    async with reader.get("/api/v1/bundles/1") as response:
        assert await response.read() == bundle.bundle.to_json()
    assert await refusal(reader, "GET", "/api/v1/bundles/2") == (
        404,
        "bundle 2: expected one that the journal holds, found none",
    )


async def test_unknown_paths_and_methods_are_answered_in_json(reader: aiohttp.ClientSession) -> None:
    assert await refusal(reader, "GET", "/api/v1/nothing") == (404, "GET /api/v1/nothing: not found")
    async with reader.get("/api/v1/rotate") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"


async def test_metrics_have_the_documented_names(reader: aiohttp.ClientSession) -> None:
    async with reader.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    epoch = int(clock()) // EPOCH
    for name, value in {
        'ca_rotation_attempts_total{outcome="prepared"}': 1,
        'ca_rotation_attempts_total{outcome="activated"}': 1,
        "ca_rotation_generation_duration_seconds_count": 1,
        "ca_rotation_orchestration_duration_seconds_count": 0,
        "ca_rotation_current_epoch": epoch,
        "ca_rotation_current_sequence": 1,
        "ca_rotation_active_epoch": epoch,
        'ca_rotation_publish_total{outcome="written",target="directory"}': 1,
        'ca_rotation_publish_duration_seconds_count{target="directory"}': 1,
        'ca_rotation_fleet_agents{state="missing"}': 2,
        'ca_rotation_fleet_required_agents{state="missing"}': 1,
        "ca_rotation_epoch_seconds": EPOCH,
        "ca_rotation_gate_held": 0,
        "ca_rotation_signing_ca_expiry_timestamp_seconds": (epoch + 4) * EPOCH,
    }.items():
        assert float(values[name]) == value, name
    assert 0 <= clock() - float(values["ca_rotation_last_success_timestamp_seconds"]) < 60
    assert "_created" not in text


async def test_closed_reads_need_a_token_of_any_role(tmp_path: Path) -> None:
    deployment = AuthorityDeployment.create(tmp_path / "house", preset="testing", open_reads=False)
    deployment.init()
    async with deployment.running(clock):
        async with deployment.session() as stranger:
            for path in ("/metrics", "/api/v1/status", "/api/v1/fleet", "/api/v1/bundles", "/api/v1/bundles/1"):
                status, sentence = await refusal(stranger, "GET", path)
                assert (status, sentence) == (401, f"{path}: expected a bearer token, found none")
            assert await answers(stranger, "/livez")
            assert await answers(stranger, "/readyz")
        for role in ("agent", "operator"):
            async with deployment.session(deployment.token(role)) as session:
                assert await answers(session, "/api/v1/status")


async def test_taken_port_is_an_error_that_names_the_port(deployment: AuthorityDeployment, tmp_path: Path) -> None:
    port = deployment.url.rpartition(":")[2]
    other = AuthorityDeployment.create(tmp_path / "other", preset="testing")
    text = other.config_file.read_text().replace("[api]", f'[api]\nlisten = "127.0.0.1:{port}"')
    other.config_file.write_text(text)
    other.init()
    with pytest.raises(ListenError, match=rf"api\.listen: expected to listen on 127\.0\.0\.1:{port}, found .*in use"):
        async with other.running(clock):
            pass
