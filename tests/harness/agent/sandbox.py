"""One pod as its agent sees it: mounts, trust file, output directory, and the agent in this process or its own."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.app import Agent, assemble, connections, until
from agent.clocks import Clocks
from agent.config import read_config
from agent.loop.timing import RetryPolicy
from agent.reporting.status import AgentStatus
from tests.harness.agent.mounts import KubeletMount, bundle_files, leaf_files
from tests.harness.contract.bundle_factory import BundleFactory, LeafFiles
from tests.harness.nats.server import NatsServer
from tests.harness.paths import CHECKOUT
from tests.harness.ports import free_port
from tests.harness.waiting import eventually
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle
from tidemark.receipt import AgentState
from tidemark.trust import Trust
from tidemark.verify import VerifiedBundle, reopen

BRIEF = RetryPolicy(
    proof_timeout=1.0,
    tries=2,
    retry_pause=0.05,
    probe_timeout=0.5,
    absent_pause=0.02,
    longest_absent_pause=0.1,
    refused_pause=0.3,
    rejudge_after=0.3,
)
"""Short time-outs, for tests that wait for a failure."""


class Observed:
    """An agent in this process, and its status."""

    def __init__(self, agent: Agent, task: asyncio.Task[None]) -> None:
        self.agent = agent
        self._task = task

    @property
    def status(self) -> AgentStatus:
        return self.agent.status_store.status

    async def reaches(self, condition: Callable[[AgentStatus], object], what: str) -> AgentStatus:
        """Wait until the status fulfils a condition."""

        def look() -> bool:
            if self._task.done():
                self._task.result()
            return bool(condition(self.status))

        try:
            await eventually(look, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the status is {self.status}") from None
        return self.status

    async def is_proven(self, sequence: int, leaf: LeafFiles | None = None) -> AgentStatus:
        return await self.reaches(
            lambda s: (
                s.state is AgentState.PROVEN
                and s.proven
                and s.proven.sequence == sequence
                and (leaf is None or (s.leaf and s.leaf.sha256 == leaf.sha256))
            ),
            f"sequence {sequence} to be proven",
        )

    async def fails(self, reason: str) -> AgentStatus:
        return await self.reaches(lambda s: s.failure and s.failure.reason == reason, f"the failure {reason}")


class AgentSandbox:
    """Directories of one pod, written as authority and kubelet write them; a field for each mount and setting."""

    def __init__(self, folder: Path, factory: BundleFactory) -> None:
        self.folder = folder
        self.factory = factory
        self.bundle_mount = KubeletMount(folder / "bundle")
        self.leaf_mount = KubeletMount(folder / "leaf")
        self.trust_file = folder / "trust" / "trust.toml"
        self.out = folder / "out"
        self.targets = ""
        self.leaf_managed = True
        self.nats_url = ""
        self.write_trust_file(factory.trust())

    def write_trust_file(self, trust: Trust) -> None:
        self.trust_file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.trust_file.with_suffix(".new")
        fresh.write_text(trust.dump())
        fresh.rename(self.trust_file)

    def mount(self, bundle: Bundle | None = None, leaf: LeafFiles | None = None) -> None:
        """Switch the mounts to these."""
        if bundle is not None:
            self.bundle_mount.switch_to(bundle_files(bundle))
        if leaf is not None:
            self.leaf_mount.switch_to(leaf_files(leaf))

    def environment(self, **changes: str) -> dict[str, str]:
        variables = {
            "TIDEMARK_BUNDLE": str(self.bundle_mount.path),
            "TIDEMARK_LEAF": str(self.leaf_mount.path) if self.leaf_managed else "",
            "TIDEMARK_TRUST": str(self.trust_file),
            "TIDEMARK_OUT": str(self.out),
            "TIDEMARK_TARGETS": self.targets,
            "TIDEMARK_NATS_URL": self.nats_url,
            "TIDEMARK_POD": "nats-0",
            "TIDEMARK_POD_UID": "uid-0",
            "TIDEMARK_LISTEN": f"127.0.0.1:{free_port()}",
        }
        return variables | changes

    def installed(self) -> VerifiedBundle:
        """The set in the output directory; fails unless it is one whole verified set."""
        bundle = Bundle((self.out / CA_FILE).read_bytes(), (self.out / NOTE_FILE).read_bytes())
        return reopen(bundle, Trust.parse(self.trust_file.read_bytes()))

    def file(self, name: str) -> bytes:
        return (self.out / name).read_bytes()

    @contextlib.asynccontextmanager
    async def agent(
        self,
        variables: Mapping[str, str] | None = None,
        *,
        now: Callable[[], float] = time.time,
        policy: RetryPolicy = BRIEF,
    ) -> AsyncIterator["Observed"]:
        """An agent in this process, without its HTTP port; it is stopped at the end."""
        stop = asyncio.Event()
        clocks = Clocks(now, lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        async with connections() as http:
            agent = assemble(read_config(self.environment(**(variables or {}))), http, clocks, policy)
            task = asyncio.create_task(until(stop, agent.work))
            try:
                yield Observed(agent, task)
            finally:
                stop.set()
                await task


class AgentProcess:
    """``python -m agent`` as a process of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.url = f"http://{environment['TIDEMARK_LISTEN']}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, log: Path) -> None:
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent"],
                env={"PATH": os.environ["PATH"], **self.environment},
                cwd=CHECKOUT,
                stdout=output,
                stderr=output,
            )

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; (0, "") where no server answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:  # noqa: S310 - the agent's own port
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self) -> dict[str, Any]:
        code, body = self.get("/status")
        return dict(json.loads(body)) if code == 200 else {}

    async def answers(self, path: str, code: int = 200) -> None:
        await eventually(lambda: self.get(path)[0] == code, f"{path} to answer {code}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def serves(sandbox: AgentSandbox, server: NatsServer) -> bool:
    """Whether a peer with the pod's own files completes a mutual TLS handshake with the server."""
    context = ssl.create_default_context(cafile=sandbox.out / "ca.crt")
    context.load_cert_chain(sandbox.out / "tls.crt", sandbox.out / "tls.key")
    with (
        socket.create_connection(("127.0.0.1", server.cluster), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        return connection.recv(4) == b"INFO"


def snapshot(sandbox: AgentSandbox) -> dict[str, bytes]:
    return {name: sandbox.file(name) for name in ("ca.crt", "bundle.note", "tls.crt", "tls.key")}


async def begin(sandbox: AgentSandbox, server: NatsServer, observed: Observed, sequence: int = 1) -> None:
    """Install the first set, start the server on it, and wait for the proof."""
    await observed.reaches(lambda s: s.installed, "a set to be installed")
    await server.start()
    await observed.is_proven(sequence)


def write_set(files: Path, bundle: Bundle, leaf: LeafFiles) -> None:
    """Put a set into a plain directory, for tests without an agent."""
    files.mkdir(exist_ok=True)
    for name, content in (bundle_files(bundle) | leaf_files(leaf)).items():
        (files / name).write_bytes(content)
