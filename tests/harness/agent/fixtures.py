"""Fixtures for tests that run agents, real nats-servers and a broker of announcements."""

import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from tests.harness.agent.sandbox import AgentProcess, AgentSandbox, write_set
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.nats.announcement_broker import AnnouncementBroker
from tests.harness.nats.server import NatsServer


@pytest.fixture
def factory() -> BundleFactory:
    return BundleFactory(int(time.time()))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and write to; ``tmp_path`` is closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
def serving() -> Iterator[Callable[[NatsServer], NatsServer]]:
    """Registers nats-servers that are stopped after the test."""
    servers: list[NatsServer] = []

    def take(server: NatsServer) -> NatsServer:
        servers.append(server)
        return server

    yield take
    for server in servers:
        server.stop()


@pytest.fixture
def nats_server(tmp_path: Path, serving: Callable[[NatsServer], NatsServer]) -> Callable[..., NatsServer]:
    """Makes nats-servers that are stopped after the test."""
    number = itertools.count()

    def make(files: Path, verify: bool = True) -> NatsServer:
        return serving(NatsServer(tmp_path / f"nats-{next(number)}", files, verify=verify))

    return make


@pytest.fixture
def sandbox(tmp_path: Path, factory: BundleFactory) -> AgentSandbox:
    return AgentSandbox(tmp_path, factory)


@pytest.fixture
def agent_process(tmp_path: Path) -> Iterator[Callable[[Mapping[str, str]], AgentProcess]]:
    """Starts agents as processes that are stopped after the test; they log to ``agent.log``."""
    started: list[AgentProcess] = []

    def start(environment: Mapping[str, str]) -> AgentProcess:
        started.append(AgentProcess(environment))
        started[-1].start(tmp_path / "agent.log")
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def server(sandbox: AgentSandbox, nats_server: Callable[..., NatsServer]) -> NatsServer:
    made = nats_server(sandbox.out)
    sandbox.targets = made.target
    return made


@pytest.fixture
async def broker(tmp_path: Path, factory: BundleFactory, sandbox: AgentSandbox) -> AsyncIterator[AnnouncementBroker]:
    """A running broker; the agents of the sandbox subscribe to it."""
    write_set(tmp_path / "broker-files", factory.bundle(1), factory.leaf())
    made = AnnouncementBroker(tmp_path / "broker", tmp_path / "broker-files")
    await made.start()
    sandbox.nats_url = made.url
    yield made
    made.stop()
