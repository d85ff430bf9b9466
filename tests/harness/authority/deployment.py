"""A whole authority on real files, and what agents and operators do with it over HTTPS."""

import asyncio
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

import aiohttp

from authority.api.token_files import read_token
from authority.app.provision import initialise
from authority.app.run import run
from authority.app.trust import trust_of
from authority.config.load import AuthorityConfig, load
from authority.support import projected_directory
from tests.harness.authority import journal_builder
from tests.harness.paths import CHECKOUT
from tests.harness.waiting import PATIENCE, eventually
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle
from tidemark.certificates import Leaf, fingerprint, not_after, not_before, parse_leaf
from tidemark.receipt import LeafReport, Receipt
from tidemark.trust import Trust
from tidemark.verify import Mark, VerifiedBundle, reopen

AGENTS = ("nats-0", "app-0")


@dataclass(frozen=True)
class AuthorityDeployment:
    """A configured authority under ``root``: each agent has a directory for bundles and a directory for its leaf.

    Its many methods are what tests do with an authority: configure, start, ask, wait, and read what it published."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls, root: Path, *, preset: str, more: str = "", open_reads: bool = True, agents: Sequence[str] = AGENTS
    ) -> "AuthorityDeployment":
        lines = [
            'trust_domain = "bus.example.com"',
            f'preset = "{preset}"',
            more,
            "[api]",
            f"open_reads = {json.dumps(open_reads)}",
        ]
        for name in agents:
            pod_class = "required" if name.startswith("nats") else "application"
            lines += ["[[agents]]", f'name = "{name}"', f'class = "{pod_class}"']
            lines += ["[[publish.directory]]", f'path = "{name}/bundle"']
            lines += ["[[leaves]]", f'name = "{name}"', f'directory = "{name}/leaf"', 'dns = ["localhost"]']
        root.mkdir(exist_ok=True)
        (root / "authority.toml").write_text("\n".join(lines) + "\n")
        return cls(root)

    @property
    def config_file(self) -> Path:
        return self.root / "authority.toml"

    @property
    def config(self) -> AuthorityConfig:
        return load(self.config_file, self.environment)

    @property
    def state(self) -> Path:
        return self.root / "state"

    def init(self) -> None:
        initialise(self.config, int(time.time()))

    def token(self, role: str) -> str:
        return read_token(self.state / "tokens" / role)

    @property
    def url(self) -> str:
        return str(json.loads((self.state / "api.json").read_text())["url"])

    async def trust(self) -> Trust:
        return await trust_of(self.config)

    async def bundle(self, agent: str) -> VerifiedBundle:
        """The bundle in an agent's projected directory."""
        directory = self.root / agent / "bundle"
        with projected_directory.locked(directory):  # no file of one set and the other of the next
            ca, note = (directory / CA_FILE).read_bytes(), (directory / NOTE_FILE).read_bytes()
        return reopen(Bundle(ca, note), await self.trust())

    def leaf(self, agent: str) -> Leaf:
        directory = self.root / agent / "leaf"
        with projected_directory.locked(directory):
            return parse_leaf((directory / LEAF_FILE).read_bytes(), (directory / KEY_FILE).read_bytes())

    async def context(self) -> ssl.SSLContext:
        """A TLS context that trusts the control CA alone."""
        return ssl.create_default_context(cadata=(await self.trust()).control_ca)

    @asynccontextmanager
    async def session(self, token: str = "") -> AsyncIterator[aiohttp.ClientSession]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=await self.context())
        async with aiohttp.ClientSession(self.url, connector=connector, headers=headers) as session:
            yield session

    @asynccontextmanager
    async def running(self, clock: Callable[[], float] = time.time) -> AsyncIterator[None]:
        """The authority in this process; it has published when the block begins."""
        (self.state / "api.json").unlink(missing_ok=True)
        stop = asyncio.Event()
        task = asyncio.create_task(run(self.config, stop, clock))
        try:
            await eventually(lambda: self._is_listening(task), "the API to listen")
            await self.until_published()
            yield
        finally:
            stop.set()
            await asyncio.gather(task)

    async def until_published(self) -> None:
        """Wait until a CA signs and every projected directory shows the newest statement."""

        async def shows_newest() -> bool:
            status = await ask(session, "/api/v1/status")
            shown = [publisher["sequence"] for publisher in status["publishers"] if publisher["outcome"]]
            return bool(shown) and min(shown) == status["newest"]["sequence"]

        async with self.session(self.token("operator")) as session:
            await eventually(lambda: answers(session, "/readyz"), "the authority to be ready")
            await eventually(shows_newest, "the newest statement in every mount")

    async def _is_listening(self, task: asyncio.Task[None]) -> bool:
        if task.done():
            task.result()  # raises what ended it
        return (self.state / "api.json").exists()

    async def has_leaf_of(self, agent: str, ca: str) -> bool:
        """Whether the agent's mount shows a leaf that this CA signed."""
        try:
            return fingerprint(self.leaf(agent).chain[0]) == ca
        except FileNotFoundError:
            return False


async def answers(session: aiohttp.ClientSession, path: str) -> bool:
    try:
        async with session.get(path) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def ask(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with session.get(path) as response:
        response.raise_for_status()
        answer: dict[str, Any] = await response.json()
        return answer


def receipt(agent: str, proven: Mark, leaf: Leaf | None, number: int) -> Receipt:
    """What an agent reports once its workload has proven a set."""
    report = None
    if leaf is not None:
        report = LeafReport(
            sha256=leaf.sha256,
            issuer=leaf.certificate.issuer.rfc4514_string(),
            issuer_sha256=fingerprint(leaf.chain[0]),
            serial=f"{leaf.certificate.serial_number:x}",
            not_before=not_before(leaf.certificate),
            not_after=not_after(leaf.certificate),
        )
    made = journal_builder.receipt(agent, proven, uid=f"uid-{agent}", number=number, leaf=report)
    return replace(made, version="0.1.0", stages={"verify": 0.01}, clock=int(time.time()))


@dataclass(frozen=True)
class Finished:
    """How a command of the real program ended."""

    status: int
    out: str
    err: str


async def command(*arguments: str | Path, environment: Mapping[str, str] | None = None, typed: str = "") -> Finished:
    """Run the real program to its end; ``typed`` is its standard input."""
    process = await _start(arguments, environment or {}, asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(typed.encode())
    finally:
        if process.returncode is None:  # nothing that a failing test started lives on
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


class Program:
    """``python -m authority run`` as a process of its own, with its log in a file."""

    module = "authority"

    def __init__(
        self, deployment: AuthorityDeployment, environment: Mapping[str, str] | None = None, name: str = "log"
    ) -> None:
        self.deployment = deployment
        self.log = deployment.root / name
        self._environment = {**deployment.environment, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.signal(signal.SIGKILL)

    async def start(self) -> None:
        """Start the program and wait until it has published."""
        (self.deployment.state / "api.json").unlink(missing_ok=True)
        await self.launch()
        await eventually(self._is_listening, "the API to listen")
        await self.deployment.until_published()

    async def launch(self) -> None:
        """Start the program without waiting."""
        with self.log.open("ab") as log:
            arguments: list[str | Path] = ["--config", self.deployment.config_file, "run"]
            self._process = await _start(arguments, self._environment, log, self.module)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def is_stopped(self) -> bool:
        """Whether the process is stopped (state ``T``, proc(5))."""
        stat = await asyncio.to_thread(Path(f"/proc/{self.pid}/stat").read_text)
        return stat.rpartition(")")[2].split()[0] == "T"

    def send(self, number: signal.Signals) -> None:
        """Send a signal without waiting."""
        assert self._process is not None
        self._process.send_signal(number)

    async def signal(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    async def _is_listening(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.log.read_text()
        return (self.deployment.state / "api.json").exists()


async def _start(
    arguments: Sequence[str | Path], environment: Mapping[str, str], output: int | IO[bytes], module: str = "authority"
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *map(str, arguments)),
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=asyncio.subprocess.PIPE if output == asyncio.subprocess.PIPE else asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
