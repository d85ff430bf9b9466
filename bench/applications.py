"""What a consumer at 2,000 messages a second notices of a change of trust: Tidemark's, and the two ways of nats-py.

One consumer process (this one) and one publisher process against a real 3-node cluster, a thousand core messages (queue
group) and a thousand of JetStream (pull consumer) a second, numbered. Each way in turn changes its leaf as often.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

import tidemark.nats
from playground.layout import free_ports
from playground.ledger import Ledger
from playground.load import CORE_SUBJECT, JETSTREAM_SUBJECT, READY_SUBJECT, STREAM, make_stream
from tests.harness.measurements import ReportTable, Sample
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, connect_eventually
from tests.harness.nats.load_applications import Application
from tests.harness.waiting import eventually
from tidemark.nats.installed_set import read_installed

TITLE = "Applications: a consumer changes its trust at 2,000 messages per second"

CHANGES = int(os.environ.get("BENCH_CHANGES", "20"))
_PAUSE = 2.5  # seconds between changes: force_reconnect waits where the last attempt is less than two seconds ago
_CONSUMER = api.ConsumerConfig(ack_policy=api.AckPolicy.EXPLICIT, ack_wait=10, max_ack_pending=10_000)
_GROUP = "bench"


@dataclass
class Counts:
    """What came."""

    core: Ledger = field(default_factory=Ledger)
    stored: Ledger = field(default_factory=Ledger)

    async def take_core(self, message: Msg) -> None:
        self.core.arrived(int(message.data.split()[1]), time.monotonic_ns())

    async def take_stored(self, message: Msg) -> None:
        redelivered = message.metadata.num_delivered > 1
        self.stored.arrived(int(message.data.split()[1]), time.monotonic_ns(), redelivered=redelivered)
        await message.ack()

    def have(self, core: int, stored: int) -> bool:
        return self.core.received >= core and self.stored.received >= stored


class TrustChange(Protocol):
    """A consumer that can change its trust."""

    name: str

    async def open(self, servers: list[str], output: InstalledOutput, counts: Counts) -> None:
        """Connect and subscribe."""

    async def change(self) -> None:
        """Use what is installed now."""

    async def close(self) -> None:
        """Disconnect."""


class Fetching:
    """Fetches as any consumer does, with nats-py's own default time-out."""

    def __init__(self, puller: JetStreamContext.PullSubscription, counts: Counts) -> None:
        self._puller, self._counts = puller, counts
        self._ending = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._ending:
            try:
                messages = await self._puller.fetch(200)
            except (TimeoutError, nats.js.errors.APIError):
                continue
            for message in messages:
                await self._counts.take_stored(message)

    async def end(self) -> None:
        """Let the fetch at hand end, as a careful application does before it drains."""
        self._ending = True
        await self._task


async def answer_ready(message: Msg) -> None:
    """The publisher asks whether it may start."""
    await message.respond(b"ready")


class Tidemark:
    """``connection.reload()``."""

    name = "Tidemark `reload()`"

    async def open(self, servers: list[str], output: InstalledOutput, counts: Counts) -> None:
        self._connection = await tidemark.nats.connect(servers, directory=output.path)
        jetstream = self._connection.jetstream()
        await self._connection.subscribe(CORE_SUBJECT, queue=_GROUP, cb=counts.take_core)
        puller = await jetstream.pull_subscribe(JETSTREAM_SUBJECT, durable=_GROUP, stream=STREAM.name, config=_CONSUMER)
        await self._connection.subscribe(READY_SUBJECT, cb=answer_ready)
        await self._connection.flush()
        self._fetching = Fetching(puller, counts)

    async def change(self) -> None:
        await self._connection.reload()

    async def close(self) -> None:
        await self._fetching.end()
        await self._connection.close()


class ForceReconnect:
    """nats-py's ``force_reconnect`` with a new context in its options."""

    name = "nats-py `force_reconnect()`"

    async def open(self, servers: list[str], output: InstalledOutput, counts: Counts) -> None:
        self._output = output
        self._connection = await _plain(servers, output)
        self._fetching = await _subscribed(self._connection, counts)

    async def change(self) -> None:
        self._connection.options["tls"] = read_installed(self._output.path).context
        await self._connection.force_reconnect()

    async def close(self) -> None:
        await self._fetching.end()
        await self._connection.close()


class DrainThenConnect:
    """nats-py's ``drain``, and then a new connection with new subscriptions."""

    name = "nats-py drain, then connect"

    async def open(self, servers: list[str], output: InstalledOutput, counts: Counts) -> None:
        self._servers, self._output, self._counts = servers, output, counts
        self._connection = await _plain(servers, output)
        self._fetching = await _subscribed(self._connection, counts)

    async def change(self) -> None:
        await self._fetching.end()
        await self._connection.drain()
        self._connection = await _plain(self._servers, self._output)
        self._fetching = await _subscribed(self._connection, self._counts)

    async def close(self) -> None:
        await self._fetching.end()
        await self._connection.close()


async def _plain(servers: list[str], output: InstalledOutput) -> Client:
    context = read_installed(output.path).context
    return await nats.connect(servers, tls=context, max_reconnect_attempts=-1, error_cb=_ignore)


async def _ignore(error: Exception) -> None:
    pass  # what a way loses is counted by number


async def _subscribed(connection: Client, counts: Counts) -> Fetching:
    jetstream = connection.jetstream()
    await connection.subscribe(CORE_SUBJECT, queue=_GROUP, cb=counts.take_core)
    puller = await jetstream.pull_subscribe(JETSTREAM_SUBJECT, durable=_GROUP, stream=STREAM.name, config=_CONSUMER)
    await connection.subscribe(READY_SUBJECT, cb=answer_ready)
    await connection.flush()
    return Fetching(puller, counts)


WAYS: tuple[type[TrustChange], ...] = (Tidemark, ForceReconnect, DrainThenConnect)


async def measure() -> list[ReportTable]:
    """Every way on the same cluster, one after another."""
    with tempfile.TemporaryDirectory() as home:
        async with _cluster(Path(home)) as (servers, ca):
            rows = {kind: [] for kind in ("core", "stored")}  # type: dict[str, list[list[Any]]]
            for number, way in enumerate(WAYS):
                here = Path(home) / f"way{number}"
                here.mkdir()
                for kind, row in (await _measure(way(), here, servers, ca)).items():
                    rows[kind].append(row)
    columns = ["way", "changes", "lost", "twice", "change, ms", "longest gap, ms"]
    return [
        ReportTable("Core NATS, a queue group; 1,000 messages per second.", columns, rows["core"]),
        ReportTable(
            "JetStream, a pull consumer (twice: redelivered); 1,000 messages per second.", columns, rows["stored"]
        ),
    ]


@contextlib.asynccontextmanager
async def _cluster(home: Path) -> AsyncIterator[tuple[NatsServers, ClusterCa]]:
    ca = ClusterCa("bench")
    servers = NatsServers(home / "cluster", count=3)
    servers.set_trust([ca], ca)
    for node in servers.nodes:
        node.start()
    try:
        yield servers, ca
    finally:
        servers.kill()


async def _measure(way: TrustChange, home: Path, servers: NatsServers, ca: ClusterCa) -> dict[str, list[Any]]:
    output, counts = InstalledOutput(home / "consumer"), Counts()
    output.install(ca.pem, *ca.leaf("consumer"))
    publisher = Application("publisher", home, free_ports(1)[0])
    publisher.output.install(ca.pem, *ca.leaf("publisher"))
    seconds: list[float] = []
    gaps: dict[str, list[float]] = {"core": [], "stored": []}
    async with await connect_eventually(servers.urls, output) as connection:
        await make_stream(connection.jetstream())
        await way.open(servers.urls, output, counts)
        await publisher.start(servers.urls, "--rate", "2000")
        await _flows_on(counts)
        for _ in range(CHANGES):
            output.install(ca.pem, *ca.leaf("consumer"))
            counts.core.take_recent_gap()
            counts.stored.take_recent_gap()
            begun = time.monotonic()
            await way.change()
            seconds.append(time.monotonic() - begun)
            await _flows_on(counts)
            gaps["core"].append(counts.core.take_recent_gap() / 1e6)
            gaps["stored"].append(counts.stored.take_recent_gap() / 1e6)
            await asyncio.sleep(_PAUSE)  # the pace of changes
        await publisher.stop()
        sent = publisher.state
        await _settled(counts)
        await way.close()
        await connection.jetstream().delete_stream(STREAM.name or "")
    published = {"core": sent["core"]["published"], "stored": sent["jetstream"]["published"]}
    return _rows(way.name, counts, published, seconds, gaps)


def _rows(
    name: str, counts: Counts, published: dict[str, int], seconds: list[float], gaps: dict[str, list[float]]
) -> dict[str, list[Any]]:
    """A row for each kind of message; ``seconds`` is how long each change took, ``gaps`` are milliseconds."""
    change = Sample(tuple(1000 * one for one in seconds))
    return {
        kind: [
            name,
            CHANGES,
            ledger.missing(published[kind]),
            max(ledger.duplicated, ledger.redelivered),
            change,
            Sample(tuple(gaps[kind])),
        ]
        for kind, ledger in {"core": counts.core, "stored": counts.stored}.items()
    }


async def _flows_on(counts: Counts) -> None:
    core, stored = counts.core.received + 300, counts.stored.received + 300
    await eventually(lambda: counts.have(core, stored), "messages flow")


async def _settled(counts: Counts) -> None:
    """Until nothing has come for longer than a message can be on its way, or be redelivered."""
    came, since = -1, time.monotonic()
    while time.monotonic() - since < 12:
        if (now := counts.core.received + counts.stored.received) != came:
            came, since = now, time.monotonic()
        await asyncio.sleep(0.05)
