"""Rotation after rotation under 2,000 messages a second, each application a process: what is lost, and what grows.

The suite runs a short version. ``make soak`` sets ``SOAK_ROTATIONS`` and ``SOAK_SECONDS`` (between two rotations), and
prints the report, which is also written to ``SOAK_REPORT``.
"""

import asyncio
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
import psutil
import pytest

from tests.harness.measurements import Sample
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, connect_eventually
from tests.harness.nats.load_applications import Application, applications
from tests.harness.nats.restart import all_there, restart
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection

ROTATIONS = int(os.environ.get("SOAK_ROTATIONS", "20"))
PAUSE = float(os.environ.get("SOAK_SECONDS", "0.7"))
REPORT = os.environ.get("SOAK_REPORT", "")
RATE = 2000
WARM = 5  # rotations until buffers and caches have their size
KINDS = ("core", "jetstream")


@dataclass
class ApplicationResources:
    """What the process of an application holds."""

    tasks: int
    descriptors: int
    mib: float

    @classmethod
    def of(cls, one: Application) -> "ApplicationResources":
        assert one.process is not None
        process = psutil.Process(one.process.pid)
        return cls(one.state["tasks"], process.num_fds(), process.memory_info().rss / 2**20)


@dataclass
class Soak:
    """A run under load: its parts, and what it counted so far; a field for each."""

    cluster: NatsServers
    publisher: Application
    consumer: Application
    cas: tuple[ClusterCa, ClusterCa]
    watcher: Connection
    kills: int = 0
    lost_at_kills: int = 0
    rotations: int = 0
    uses: dict[str, list[ApplicationResources]] = field(default_factory=dict)

    @property
    def both(self) -> tuple[Application, Application]:
        return self.publisher, self.consumer

    def received(self) -> int:
        state = self.consumer.state
        return min(state[kind]["received"] for kind in KINDS) if state else 0

    def holes(self) -> int:
        return int(self.consumer.state["core"]["missing"])

    async def flows_on(self, messages: int = RATE // 10) -> None:
        wanted = self.received() + messages
        await eventually(lambda: self.received() >= wanted, "it flows on")

    async def install(self) -> None:
        """The servers and both applications get leaves of the other CA."""
        ca = self.cas[self.rotations % 2]
        self.cluster.set_trust(list(self.cas), ca)
        await self.cluster.reload()
        for one in self.both:
            one.output.install(ca.pem, *ca.leaf(one.name))
        self.rotations += 1

    async def rotate(self) -> None:
        await self.install()
        await asyncio.gather(*(one.reload() for one in self.both))
        await self.flows_on()

    async def rotate_and_kill(self) -> None:
        """A random server dies in the middle of the applications' swap, and comes back."""
        await eventually(lambda: self.holes() == self.lost_at_kills, "no message is missing but by kills")
        await self.install()
        reloading = [asyncio.create_task(one.ask_to_reload()) for one in self.both]
        await restart(random.choice(self.cluster.nodes))  # noqa: S311 # any will do
        self.kills += 1
        await asyncio.gather(*reloading)
        for one in self.both:
            await until_reloaded(one)
        await self.flows_on(RATE)
        await all_there(self.cluster, self.watcher)
        await caught_up(self.watcher)
        self.lost_at_kills = self.holes()

    def note_use(self) -> None:
        for one in self.both:
            self.uses.setdefault(one.name, []).append(ApplicationResources.of(one))


async def until_reloaded(one: Application) -> None:
    """As an agent does: again, until it is done."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while (await one.ask_to_reload())[0] != 200:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)


async def caught_up(connection: Connection) -> None:
    """Until every server has all of the stream: else the next kill would lose what it alone has."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            cluster = (await connection.jetstream(timeout=1).stream_info("PLAYGROUND")).cluster
        except (nats.errors.Error, nats.js.errors.Error):
            cluster = None
        if cluster and cluster.leader and all(one.current and not one.offline for one in cluster.replicas or ()):
            return
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)


async def start_load(soak: Soak, ca: ClusterCa) -> None:
    """Start both applications with leaves of this CA, and wait until messages flow."""
    for one in soak.both:
        one.output.install(ca.pem, *ca.leaf())
    await soak.publisher.start(soak.cluster.urls, "--rate", str(RATE))
    await soak.consumer.start(soak.cluster.urls, "--expect", str(soak.publisher.state_file))
    await soak.flows_on()


async def rotate_under_load(soak: Soak, kill_every: int) -> None:
    """Rotate ``ROTATIONS`` times; a server dies in every ``kill_every``-th rotation (0: in none)."""
    for turn in range(1, ROTATIONS + 1):
        kills = kill_every and turn % kill_every == 0
        await (soak.rotate_and_kill() if kills else soak.rotate())
        await asyncio.sleep(PAUSE)  # the pace of rotations, not a wait for anything
        if turn in (WARM, ROTATIONS):
            await soak.flows_on()  # the swap has ended by then
            soak.note_use()


def check_resources(soak: Soak) -> None:
    """Neither application holds more at the end than after ``WARM`` rotations."""
    for one in soak.both:
        warm, end = soak.uses[one.name]
        # A fetch has tasks of its own, so counts differ by moments; a leak would be one or more for each rotation.
        assert abs(end.tasks - warm.tasks) < 5, one.name
        assert end.descriptors == warm.descriptors, one.name
        assert end.mib < warm.mib + 16, one.name


@pytest.mark.parametrize("kill_every", [0, 20 if ROTATIONS > 20 else 10], ids=["steady", "servers killed"])
async def test_applications_lose_nothing_and_do_not_grow_through_rotations(  # noqa: PLR0917 # fixtures
    cluster: NatsServers, output: InstalledOutput, tmp_path: Path, first: ClusterCa, second: ClusterCa, kill_every: int
) -> None:
    async with (
        applications(tmp_path) as (publisher, consumer),
        await connect_eventually(cluster.urls, output) as watcher,
    ):
        soak = Soak(cluster, publisher, consumer, (second, first), watcher)
        await start_load(soak, first)
        await rotate_under_load(soak, kill_every)
        assert await publisher.stop() == 0
        assert await consumer.stop() == 0
        sent, counted = publisher.state, consumer.state
        await cleared(watcher)
    summary = report(soak, sent, counted)
    print(json.dumps(summary, indent=2))
    if REPORT:
        await asyncio.to_thread(append, REPORT, summary)
    assert sent["jetstream"]["acked"] == sent["jetstream"]["published"]
    assert summary["jetstream"]["lost"] == 0
    assert summary["core"]["lost"] == soak.lost_at_kills
    assert summary["core"]["duplicated"] == 0
    if not kill_every:
        assert soak.lost_at_kills == 0
        assert (summary["jetstream"]["duplicated"], summary["jetstream"]["redelivered"]) == (0, 0)
        assert summary["jetstream"]["out_of_order"] == 0
    check_resources(soak)


def append(report: str, summary: dict[str, Any]) -> None:
    with Path(report).open("a") as file:
        print(json.dumps(summary), file=file)


async def cleared(connection: Connection) -> None:
    await connection.jetstream(timeout=PATIENCE).delete_stream("PLAYGROUND")


def report(soak: Soak, sent: dict[str, Any], counted: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"rotations": soak.rotations, "servers_killed": soak.kills}
    for kind in KINDS:
        gaps = Sample(tuple(counted[kind]["gaps_ms"][1:]))  # the first ends where the first reload begins
        found[kind] = {
            "published": sent[kind]["published"],
            "lost": sent[kind]["published"] - counted[kind]["received"],
            "duplicated": counted[kind]["duplicated"],
            "out_of_order": counted[kind]["out_of_order"],
            "gap_ms": {"p50": gaps.median, "p99": gaps.p99, "max": gaps.highest},
        }
    found["jetstream"]["redelivered"] = counted["jetstream"]["redelivered"]
    found["processes"] = {
        name: {
            "tasks": [use.tasks for use in uses],
            "descriptors": [use.descriptors for use in uses],
            "rss_mib": [round(use.mib, 1) for use in uses],
        }
        for name, uses in soak.uses.items()
    }
    return found
