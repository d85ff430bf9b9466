"""Many swaps in a row on one agent process with a real nats-server: the agent proves each and holds no more.

The suite makes 50; ``make soak`` sets ``SOAK_SWAPS``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import psutil

from tests.harness.agent.sandbox import AgentProcess, AgentSandbox, serves
from tests.harness.measurements import Cell, ReportTable, Sample
from tests.harness.nats.server import NatsServer
from tests.harness.soak import report, size
from tests.harness.waiting import eventually

SWAPS = size("SOAK_SWAPS", 50)
WARM = SWAPS // 2
"""Swaps until what the agent remembers on purpose (log lines, the last journeys) has its full size."""
MEBIBYTE = 2**20
COLUMNS = [
    "swaps",
    "proven",
    "p50, ms",
    "p99, ms",
    "most, ms",
    "descriptors",
    "threads",
    "directories",
    "RSS, MiB",
    "server's errors",
]


@dataclass(frozen=True)
class AgentResources:
    """What the agent holds between two swaps."""

    descriptors: int
    threads: int
    directories: int
    mib: float

    @classmethod
    def of(cls, agent: AgentProcess, sandbox: AgentSandbox) -> "AgentResources":
        assert agent.process is not None
        process = psutil.Process(agent.process.pid)
        directories = sum(entry.is_dir() and not entry.is_symlink() for entry in sandbox.out.iterdir())
        return cls(process.num_fds(), process.num_threads(), directories, process.memory_info().rss / MEBIBYTE)


@dataclass(frozen=True)
class SwapRun:
    """Samples of a whole run."""

    journeys: Mapping[int, Mapping[str, Any]]
    """The agent's record of each swap, by its number."""
    warm: AgentResources
    """After ``WARM`` swaps."""
    end: AgentResources
    complaints: list[str]
    """Errors and warnings in the log of the server."""

    def milliseconds(self) -> Sample:
        """From a swap to its proof, where the agent proved it."""
        proven = (journey for journey in self.journeys.values() if journey["outcome"] == "proven")
        return Sample(tuple(1000 * (journey["proven_at"] - journey["swapped_at"]) for journey in proven))


class Swapper:
    """Swaps a bundle, a leaf, and both in turn."""

    def __init__(self, sandbox: AgentSandbox) -> None:
        self._sandbox = sandbox
        self._sequence = 1
        self._leaf = sandbox.factory.leaf()
        sandbox.mount(sandbox.factory.bundle(self._sequence), self._leaf)

    def swap(self, turn: int) -> None:
        factory = self._sandbox.factory
        bundle, leaf = None, None
        if turn % 3 != 0:
            self._sequence += 1
            newest = factory.epoch + self._sequence % 2
            bundle = factory.bundle(self._sequence, [newest, newest - 1])
        if turn % 3 != 1:
            leaf = self._leaf = factory.leaf()
        self._sandbox.mount(bundle, leaf)

    def is_proven(self) -> bool:
        """Whether the agent has recorded the newest set as proven: sequence and leaf."""
        proven = json.loads(self._sandbox.file(".tidemark.json"))["proven"]
        newest = (self._sequence, self._leaf.sha256)
        return proven is not None and (proven["mark"]["sequence"], proven["leaf_sha256"]) == newest


async def resources_at_rest(agent: AgentProcess, sandbox: AgentSandbox) -> AgentResources:
    """Taken once the last swap's directory and its connections are gone; connections that stay open do not count."""

    def is_at_rest() -> bool:
        assert agent.process is not None
        connections = psutil.Process(agent.process.pid).net_connections()
        kept = {psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED}
        port = int(agent.environment["TIDEMARK_LISTEN"].rpartition(":")[2])
        short_lived = [one for one in connections if one.status not in kept or (one.laddr.port == port and one.raddr)]
        return not short_lived and AgentResources.of(agent, sandbox).directories == 1

    await eventually(is_at_rest, "the agent to rest, with one set in its directory")
    return AgentResources.of(agent, sandbox)


async def sample_swaps(agent: AgentProcess, sandbox: AgentSandbox, server: NatsServer, swapper: Swapper) -> SwapRun:
    """Swap ``SWAPS`` times; after each swap the agent proves the set and the server serves it."""
    journeys: dict[int, dict[str, Any]] = {}
    resources: dict[int, AgentResources] = {}
    for turn in range(1, SWAPS + 1):
        swapper.swap(turn)
        await eventually(swapper.is_proven, f"the agent to prove swap {turn}")
        assert serves(sandbox, server)
        if turn % 20 == 0 or turn == SWAPS:  # the agent remembers the last journeys only
            journeys |= {journey["number"]: journey for journey in agent.status()["journeys"]}
        if turn in (WARM, SWAPS):
            resources[turn] = await resources_at_rest(agent, sandbox)
    del journeys[1]  # waited for the server to start
    return SwapRun(journeys, resources[WARM], resources[SWAPS], server.complaints())


def report_run(run: SwapRun) -> None:
    spans = [
        f"{before:.1f} → {after:.1f}" if isinstance(before, float) else f"{before} → {after}"
        for before, after in zip(astuple(run.warm), astuple(run.end), strict=True)
    ]
    taken = run.milliseconds()
    row: list[Cell] = [SWAPS, SWAPS, taken.median, taken.p99, taken.highest, *spans, len(run.complaints)]
    caption = f"Bundles, leaves, and both; what the agent held after {WARM} swaps, and at the end."
    report("soak-swaps", "Agent: swap after swap", ReportTable(caption, COLUMNS, [row]))


async def test_agent_proves_every_swap_and_its_resources_do_not_grow(
    sandbox: AgentSandbox, server: NatsServer, agent_process: Callable[[Mapping[str, str]], AgentProcess]
) -> None:
    swapper = Swapper(sandbox)
    agent = agent_process(sandbox.environment())
    await agent.answers("/startupz")
    await server.start()
    await agent.answers("/readyz")
    await server.is_older_than(1)
    run = await sample_swaps(agent, sandbox, server, swapper)
    report_run(run)
    assert {journey["outcome"] for journey in run.journeys.values()} <= {"proven", "installed"}, "installed: overtaken"
    assert run.end.descriptors == run.warm.descriptors
    assert run.end.threads == run.warm.threads
    assert run.end.directories == run.warm.directories == 1
    assert run.end.mib < run.warm.mib + 2, "Python takes and returns memory a mebibyte at a time"
    assert len(run.complaints) <= SWAPS, (
        "a slow client closes while the server still writes: at most a line for each swap"
    )
