"""``python -m agent`` as a process: its start, its stop, its ports, and an application beside it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.harness.agent.sandbox import AgentProcess, AgentSandbox, serves
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.nats.server import NatsServer
from tests.harness.paths import CHECKOUT
from tests.harness.ports import free_port
from tests.harness.waiting import PATIENCE, eventually
from tidemark.certificates import parse_leaf
from tidemark.receipt import AgentState, Level

StartAgent = Callable[[Mapping[str, str]], AgentProcess]


def run_agent(environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "agent"],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_configuration_fault_is_reported_at_once() -> None:
    run = run_agent(
        {
            "TIDEMARK_BUNDLE": "bundle",
            "TIDEMARK_TARGETS": "signal:?signal=KILL ftp://x",
            "TIDEMARK_CLASS": "important",
            "TIDEMARK_LISTEN": "everywhere",
            "TIDEMARK_BUNDEL": "/typo",
        }
    )
    assert run.returncode == 2
    named = [line.split(":")[0] for line in run.stderr.splitlines()]
    assert named == [
        f"TIDEMARK_{name}"
        for name in ("BUNDEL", "BUNDLE", "TRUST", "OUT", "TARGETS", "TARGETS", "POD", "CLASS", "LISTEN")
    ]
    assert "TIDEMARK_CLASS: expected required or application, found 'important'" in run.stderr


async def test_pod_starts_after_first_set_and_is_ready_once_proven(
    factory: BundleFactory, sandbox: AgentSandbox, nats_server: Callable[..., NatsServer], agent_process: StartAgent
) -> None:
    server = nats_server(sandbox.out)
    sandbox.targets = server.target
    process = agent_process(sandbox.environment() | {"http_proxy": "http://127.0.0.1:1"})  # a namespace's, and no way
    await process.answers("/livez")
    assert process.get("/startupz")[0] == 503
    assert "mount_missing" in process.get("/startupz")[1]
    sandbox.mount(factory.bundle(1), factory.leaf())
    await process.answers("/startupz")
    assert process.get("/readyz")[0] == 503
    await server.start()
    await process.answers("/readyz")
    leaf = factory.leaf(factory.ca(factory.epoch + 1))
    sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]), leaf)
    status = await eventually(
        lambda: (s := process.status())["proven"]["sequence"] == 2 and s["leaf"]["sha256"] == leaf.sha256 and s,
        "a proof",
    )
    assert status["state"] == "proven"
    assert status["ready"] is True
    assert (status["pod"], status["uid"], status["class"]) == ("nats-0", "uid-0", "required")
    assert status["journeys"][-1]["leaf_issuer_sha256"] == factory.ca(factory.epoch + 1).sha256
    assert serves(sandbox, server)
    _, metrics = process.get("/metrics")
    assert "ca_rotation_proven_sequence 2.0" in metrics
    assert "ca_rotation_installed_sequence 2.0" in metrics
    assert "ca_rotation_stage_duration_seconds_count" in metrics


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_agent_stops_in_five_seconds(
    factory: BundleFactory, sandbox: AgentSandbox, agent_process: StartAgent, number: signal.Signals
) -> None:
    sandbox.targets = "signal:?process=tide-nobody"  # it waits for this one
    sandbox.mount(factory.bundle(1), factory.leaf())
    process = agent_process(sandbox.environment())
    await process.answers("/startupz")
    assert process.process is not None
    process.process.send_signal(number)
    assert process.process.wait(5) == 0


async def test_agent_stops_in_five_seconds_while_waiting_for_proof(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer, agent_process: StartAgent, tmp_path: Path
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    process = agent_process(sandbox.environment())
    await process.answers("/startupz")
    await server.start()
    await process.answers("/readyz")
    server.write_config("broken {")
    leaf = factory.leaf(factory.ca(factory.epoch + 1))
    sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]), leaf)
    await eventually(lambda: process.status()["installed"]["sequence"] == 2, "the newer set")
    assert process.process is not None
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(5) == 0
    # What it leaves is one whole set, which its next start finishes.
    assert sandbox.installed().sequence == 2
    parse_leaf(sandbox.file("tls.crt"), sandbox.file("tls.key"))
    server.write_config()
    process.start(tmp_path / "agent.log")
    await eventually(lambda: (process.status().get("proven") or {}).get("sequence") == 2, "a proof")


async def test_agent_stops_in_five_seconds_while_application_is_silent(
    factory: BundleFactory, sandbox: AgentSandbox, application: "Application", agent_process: StartAgent
) -> None:
    asked = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("expected to be cancelled")

    application.handler = hang
    await application.start()
    sandbox.mount(factory.bundle(1), factory.leaf())
    process = agent_process(sandbox.environment())
    async with asyncio.timeout(PATIENCE):
        await asked.wait()
    assert process.process is not None
    process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.process.wait, 5) == 0


async def test_agent_stops_in_five_seconds_during_revert(
    factory: BundleFactory, sandbox: AgentSandbox, application: "Application", agent_process: StartAgent, tmp_path: Path
) -> None:
    told_back = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        application.asked.append(asked)
        if asked["sequence"] == 2:
            return web.json_response({"ca_sha256": first.ca_sha256})  # it does not take the second set
        if len(application.asked) > 1:
            told_back.set()
            await asyncio.Event().wait()  # nor does it say anything when it is told to go back
        return application.echo(asked)

    first = factory.bundle(1)
    application.handler = answer
    await application.start()
    sandbox.mount(first, factory.leaf())
    process = agent_process(sandbox.environment())
    await eventually(lambda: (process.status().get("proven") or {}).get("sequence") == 1, "a proof")
    sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
    async with asyncio.timeout(PATIENCE):
        await told_back.wait()
    assert process.process is not None
    process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.process.wait, 5) == 0
    # What it leaves is the whole set that it went back to; its next start tries the newer one again.
    assert sandbox.installed().sequence == 1
    parse_leaf(sandbox.file("tls.crt"), sandbox.file("tls.key"))
    application.asked.clear()
    first = factory.bundle(2, [factory.epoch + 1, factory.epoch])  # which it takes now
    process.start(tmp_path / "agent.log")
    await eventually(lambda: (process.status().get("proven") or {}).get("sequence") == 2, "a proof")


async def test_taken_port_is_named(sandbox: AgentSandbox, factory: BundleFactory, agent_process: StartAgent) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    environment = sandbox.environment()
    process = agent_process(environment)
    await process.answers("/livez")
    other = run_agent(environment | {"TIDEMARK_LOG": "json"})
    assert other.returncode == 1
    line = json.loads(other.stdout.splitlines()[-1])
    assert (line["event"], line["listen"]) == ("cannot_listen", environment["TIDEMARK_LISTEN"])


async def test_sub_path_mounts_are_warned_of_at_start(
    sandbox: AgentSandbox, factory: BundleFactory, agent_process: StartAgent, tmp_path: Path
) -> None:
    sandbox.bundle_mount.path.mkdir()
    (sandbox.bundle_mount.path / "ca.crt").write_bytes(factory.bundle(1).ca)
    sandbox.mount(leaf=factory.leaf())
    agent_process(sandbox.environment(TIDEMARK_LOG="json"))
    log = tmp_path / "agent.log"
    line = await eventually(
        lambda: [line for line in log.read_text().splitlines() if '"mount_not_live"' in line], "the warning"
    )
    assert f"{sandbox.bundle_mount.path}: expected ..data" in json.loads(line[0])["detail"]


async def test_agent_without_leaf_warns_of_probe_without_client_certificate(
    sandbox: AgentSandbox, agent_process: StartAgent, tmp_path: Path
) -> None:
    sandbox.leaf_managed = False
    look = "signal:?process=tide-nobody&nats=127.0.0.1:4222"
    sandbox.targets = f"{look} {look}&tls=127.0.0.1:6222&tls=127.0.0.1:7222"
    process = agent_process(sandbox.environment(TIDEMARK_LOG="json"))
    await process.answers("/livez")
    lines = [json.loads(line) for line in (tmp_path / "agent.log").read_text().splitlines()]
    (warning,) = (line for line in lines if line["event"] == "probe_without_client_certificate")
    assert "probes 127.0.0.1:6222, 127.0.0.1:7222 without a client certificate" in warning["detail"]


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Application:
    """An application with a reload endpoint, which answers with what it reads, or with what the test says."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], web.Response] = self.echo
        self.port = free_port()
        self.runner: web.AppRunner | None = None
        self.handler: Handler | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/-/reload"

    def echo(self, request: dict[str, Any]) -> web.Response:
        return web.json_response({"ca_sha256": request["ca_sha256"], "leaf_sha256": request["leaf_sha256"]})

    async def start(self) -> None:
        async def reload(request: web.Request) -> web.Response:
            self.asked.append(await request.json())
            return self.answer(self.asked[-1])

        app = web.Application()
        app.router.add_post("/-/reload", self.handler or reload)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()


@pytest.fixture
async def application(sandbox: AgentSandbox) -> AsyncIterator[Application]:
    made = Application(sandbox.out)
    sandbox.targets = made.url
    yield made
    await made.stop()


async def test_application_proves_set_by_echo(
    factory: BundleFactory, sandbox: AgentSandbox, application: Application
) -> None:
    leaf = factory.leaf()
    sandbox.mount(factory.bundle(1), leaf)
    async with sandbox.agent({"TIDEMARK_CLASS": "application"}) as observed:
        status = await observed.fails("unreachable")
        assert status.state is AgentState.INSTALLED
        await application.start()
        status = await observed.is_proven(1, leaf)
        assert status.targets[0].level is Level.PROVEN
        assert application.asked == [
            {
                "sequence": 1,
                "ca_sha256": factory.bundle(1).ca_sha256,
                "leaf_sha256": leaf.sha256,
                "directory": str(sandbox.out),
            }
        ]


async def test_application_that_uses_other_files_is_reverted(
    factory: BundleFactory, sandbox: AgentSandbox, application: Application
) -> None:
    first = factory.bundle(1)
    sandbox.mount(first, factory.leaf())
    await application.start()
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        application.answer = lambda _: web.json_response({"ca_sha256": first.ca_sha256})
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        status = await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        assert status.failure
        assert status.failure.reason == "ca"
        assert application.asked[-1]["sequence"] == 1, "it was told to go back"
        application.answer = application.echo
        await observed.is_proven(2)


async def test_absent_workload_does_not_stop_revert_of_others(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer, application: Application
) -> None:
    def answer(request: dict[str, Any]) -> web.Response:
        response = web.json_response({"ca_sha256": first.ca_sha256})
        response.force_close()  # so that each request takes a connection, and time
        return response

    first = factory.bundle(1)
    application.answer = answer
    sandbox.targets = f"{server.target} {application.url}"
    sandbox.mount(first, factory.leaf())
    await application.start()
    async with sandbox.agent() as observed:
        await observed.reaches(lambda s: s.installed, "a set to be installed")
        await server.start()
        await observed.is_proven(1)
        server.stop()
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        status = await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        assert status.failure
        assert "is back in place, and a workload is absent" in status.failure.detail
        assert [request["sequence"] for request in application.asked][-2:] == [2, 1], "it was told to go back"


async def test_application_that_refuses_every_reload_is_reload_refused(
    factory: BundleFactory, sandbox: AgentSandbox, application: Application
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    await application.start()
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        application.answer = lambda _: web.Response(status=500, text="cannot parse my configuration")
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        status = await observed.reaches(lambda s: s.state is AgentState.RELOAD_REFUSED, "a refusal")
        assert status.failure
        assert "cannot parse my configuration" in status.failure.detail
        assert sandbox.installed().sequence == 1, "the proven set is back in place all the same"


async def test_application_that_only_acknowledges_is_proven_at_that_level(
    factory: BundleFactory, sandbox: AgentSandbox, application: Application
) -> None:
    application.answer = lambda _: web.Response(status=204)
    sandbox.mount(factory.bundle(1), factory.leaf())
    await application.start()
    async with sandbox.agent() as observed:
        status = await observed.is_proven(1)
        assert (status.targets[0].level, status.targets[0].allowed) == (Level.RELOADED, Level.RELOADED)


async def test_application_is_reloaded_within_splay(
    factory: BundleFactory, sandbox: AgentSandbox, application: Application
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    await application.start()
    began = time.monotonic()
    async with sandbox.agent({"TIDEMARK_SPLAY": "1", "TIDEMARK_POD": "web-4"}) as observed:
        await observed.is_proven(1)
        assert time.monotonic() - began > 0.3, "this pod's share of a second"


async def test_json_log_has_no_secrets_and_no_repeated_lines(
    factory: BundleFactory, sandbox: AgentSandbox, application: Application, agent_process: StartAgent, tmp_path: Path
) -> None:
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text("the-word-for-the-application")
    password.write_text("the-word-for-the-server")
    nobody = f"nats-sys://127.0.0.1:{free_port()}?user=sys&password_file={password}"
    sandbox.targets = f"{application.url}?token_file={token} {nobody} signal:?process=tide-nobody"
    application.answer = lambda _: web.Response(status=401, text="who are you?")
    await application.start()
    leaves = [factory.leaf() for _ in range(3)]
    sandbox.mount(factory.bundle(1), leaves[0])
    log = tmp_path / "agent.log"
    process = agent_process(
        sandbox.environment(
            TIDEMARK_LOG="json",
            TIDEMARK_AUTHORITY_URL=f"https://127.0.0.1:{free_port()}",
            TIDEMARK_AUTHORITY_TOKEN_FILE=str(token),
            TIDEMARK_NATS_URL=f"tls://127.0.0.1:{free_port()}",
        )
    )
    await process.answers("/startupz")
    for sequence, leaf in enumerate(leaves[1:], start=2):
        looks = len(application.asked)
        await eventually(lambda n=looks: len(application.asked) > n + 2, "a few vain looks")  # type: ignore[misc]  # a lambda with a default
        sandbox.mount(factory.bundle(sequence), leaf)
        await eventually(lambda n=sequence: process.status()["installed"]["sequence"] == n, "the next set")  # type: ignore[misc]  # a lambda with a default
    sandbox.bundle_mount.switch_to({"ca.crt": leaves[0].key, "bundle.note": token.read_bytes()})
    await eventually(lambda: '"signature"' in log.read_text(), "the refusal")
    shown = process.get("/metrics")[1] + process.get("/status")[1]
    assert process.process is not None
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(5) == 0
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"at", "level", "event"} <= line.keys() for line in lines)
    assert {"unreachable", "not_permitted", "no_process", "signature"} <= {line.get("reason") for line in lines}
    without_time = [json.dumps({**line, "at": ""}) for line in lines]
    assert [line for line in set(without_time) if without_time.count(line) > 1] == []
    secrets = [token.read_text(), password.read_text()]
    secrets += [line for leaf in leaves for line in leaf.key.decode().splitlines() if "---" not in line]
    assert [secret for secret in secrets if secret in text] == []
    assert [secret for secret in secrets if secret in shown] == []
