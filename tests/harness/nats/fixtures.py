"""Fixtures: nats-servers, an output directory and connections for each test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats.js.errors import APIError

from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsNode, NatsServers, connect_eventually
from tests.harness.nats.reload_outcomes import ReloadOutcomes
from tests.harness.nats.set_installer import SetInstaller, node_of
from tests.harness.waiting import PATIENCE
from tidemark.nats import Connection


@pytest.fixture(scope="session")
def first() -> ClusterCa:
    """The CA that signed every leaf in use when a test begins."""
    return ClusterCa("first")


@pytest.fixture(scope="session")
def second() -> ClusterCa:
    """A second CA that the servers trust."""
    return ClusterCa("second")


@pytest.fixture(scope="session")
def stranger() -> ClusterCa:
    """A CA that no server trusts."""
    return ClusterCa("stranger")


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, first: ClusterCa, second: ClusterCa) -> Iterator[NatsServers]:
    servers = NatsServers(tmp_path_factory.mktemp("cluster"), count=3)
    servers.set_trust([first, second], first)
    for node in servers.nodes:
        node.start()
    yield servers
    servers.kill()


@pytest.fixture
async def cluster(
    running: NatsServers, output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> AsyncIterator[NatsServers]:
    """Three servers that trust both CAs and can place a replicated stream, as ``STREAM`` if a test makes one."""
    async with await connect_eventually(running.urls, output) as connection:
        jetstream = connection.jetstream(timeout=0.5)
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                await jetstream.add_stream(name="PROBE", subjects=["probe"], num_replicas=3)
                await jetstream.delete_stream("PROBE")
                break
            except (APIError, TimeoutError):
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
    yield running
    running.set_trust([first, second], first)
    await running.reload()


@pytest.fixture
def lone(tmp_path: Path, first: ClusterCa, second: ClusterCa) -> Iterator[NatsServers]:
    """A running server of the test's own that trusts both CAs."""
    servers = NatsServers(tmp_path / "lone", count=1)
    servers.set_trust([first, second], first)
    servers.nodes[0].start()
    yield servers
    servers.kill()


@pytest.fixture
def output(tmp_path: Path, first: ClusterCa, second: ClusterCa) -> InstalledOutput:
    """An output directory with both CAs and a leaf of the first."""
    made = InstalledOutput(tmp_path / "out")
    made.install(first.pem + second.pem, *first.leaf())
    return made


@pytest.fixture
async def connection(lone: NatsServers, output: InstalledOutput) -> AsyncIterator[Connection]:
    """To the server of the test's own."""
    async with await connect_eventually(lone.urls, output, reconnect_time_wait=0.05) as made:
        yield made


@pytest.fixture
def outcomes() -> ReloadOutcomes:
    """What the connection ``reporting`` reports."""
    return ReloadOutcomes()


@pytest.fixture
async def reporting(lone: NatsServers, output: InstalledOutput, outcomes: ReloadOutcomes) -> AsyncIterator[Connection]:
    """To the server of the test's own; its callbacks fill ``outcomes``."""
    async with await connect_eventually(lone.urls, output, **outcomes.options) as made:
        yield made


@pytest.fixture
async def member(cluster: NatsServers, output: InstalledOutput) -> AsyncIterator[Connection]:
    """Connected to the cluster."""
    async with await connect_eventually(cluster.urls, output, reconnect_time_wait=0.05) as made:
        yield made


@pytest.fixture
async def peer(cluster: NatsServers, tmp_path: Path, first: ClusterCa, second: ClusterCa) -> AsyncIterator[Connection]:
    """Another application's connection, with an output directory of its own."""
    other = InstalledOutput(tmp_path / "peer")
    other.install(first.pem + second.pem, *first.leaf())
    async with await connect_eventually(cluster.urls, other, reconnect_time_wait=0.05) as made:
        yield made


@pytest.fixture
def away(cluster: NatsServers, peer: Connection) -> NatsNode:
    """A server that the peer is not connected to."""
    return next(node for node in cluster.nodes if node is not node_of(peer, cluster))


@pytest.fixture
def installer(member: Connection, output: InstalledOutput, first: ClusterCa, second: ClusterCa) -> SetInstaller:
    """For the connection ``member``."""
    return SetInstaller(member, output, first, second)
