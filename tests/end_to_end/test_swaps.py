"""Swap after swap on one agent process with a real nats-server: every last one is proven, and nothing grows.

The suite makes 50; ``make soak`` sets ``SOAK_SWAPS``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import psutil

from tests.harness.agent.sandbox import AgentProcess, AgentSandbox, serves
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.measurements import Cell, ReportTable, Sample
from tests.harness.nats.server import NatsServer
from tests.harness.soak import report, size
from tests.harness.waiting import eventually

SWAPS = size("SOAK_SWAPS", 50)
WARM = SWAPS // 2
"""Swaps until what is remembered on purpose (lines said, the last journeys) has its size."""
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Use:
    """What the agent holds between two swaps."""

    descriptors: int
    threads: int
    directories: int
    mib: float

    @classmethod
    def of(cls, agent: AgentProcess, sandbox: AgentSandbox) -> "Use":
        assert agent.process is not None
        process = psutil.Process(agent.process.pid)
        directories = sum(entry.is_dir() and not entry.is_symlink() for entry in sandbox.out.iterdir())
        return cls(process.num_fds(), process.num_threads(), directories, process.memory_info().rss / MEBIBYTE)


def is_remembered(sandbox: AgentSandbox, wanted: tuple[int, str]) -> bool:
    """Whether the agent has written this set down as proven: sequence and leaf."""
    proven = json.loads(sandbox.file(".tidemark.json"))["proven"]
    return proven is not None and (proven["mark"]["sequence"], proven["leaf_sha256"]) == wanted


async def use_at_rest(agent: AgentProcess, sandbox: AgentSandbox) -> Use:
    """Taken once the last swap's directory is put away, and every connection but those that are kept."""

    def is_at_rest() -> bool:
        assert agent.process is not None
        connections = psutil.Process(agent.process.pid).net_connections()
        kept = {psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED}
        port = int(agent.environment["TIDEMARK_LISTEN"].rpartition(":")[2])
        asking = [one for one in connections if one.status not in kept or (one.laddr.port == port and one.raddr)]
        return not asking and Use.of(agent, sandbox).directories == 1

    await eventually(is_at_rest, "the agent to rest, with one set in its directory")
    return Use.of(agent, sandbox)


async def test_every_swap_is_proven_and_nothing_grows(
    factory: BundleFactory,
    sandbox: AgentSandbox,
    server: NatsServer,
    agent_process: Callable[[Mapping[str, str]], AgentProcess],
) -> None:
    leaf = factory.leaf()
    sandbox.mount(factory.bundle(1), leaf)
    agent = agent_process(sandbox.environment())
    await agent.answers("/startupz")
    await server.start()
    await agent.answers("/readyz")
    await server.is_older_than(1)
    sequence, journeys, uses = 1, dict[int, dict[str, Any]](), list[Use]()
    for turn in range(1, SWAPS + 1):
        bundle = turn % 3 != 0
        sequence += bundle
        newest = factory.epoch + sequence % 2
        if turn % 3 != 1:
            leaf = factory.leaf()
        sandbox.mount(
            factory.bundle(sequence, [newest, newest - 1]) if bundle else None, leaf if turn % 3 != 1 else None
        )
        wanted = (sequence, leaf.sha256)
        await eventually(partial(is_remembered, sandbox, wanted), f"swap {turn} to be proven")
        assert serves(sandbox, server)
        if turn % 20 == 0 or turn == SWAPS:
            journeys |= {journey["number"]: journey for journey in agent.status()["journeys"]}
        if turn in (WARM, SWAPS):
            uses.append(await use_at_rest(agent, sandbox))
    assert {journey["outcome"] for journey in journeys.values()} <= {"proven", "installed"}, "installed: overtaken"
    del journeys[1]  # waited for the server to start
    proven = [journey for journey in journeys.values() if journey["outcome"] == "proven"]
    taken = Sample(tuple(1000 * (journey["proven_at"] - journey["swapped_at"]) for journey in proven))
    warm, end = uses
    spans = [
        f"{before:.1f} → {after:.1f}" if isinstance(before, float) else f"{before} → {after}"
        for before, after in zip(astuple(warm), astuple(end), strict=True)
    ]
    complaints = server.complaints()
    columns = [
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
    row: list[Cell] = [SWAPS, SWAPS, taken.median, taken.p99, taken.highest, *spans, len(complaints)]
    caption = f"Bundles, leaves, and both; what the agent held after {WARM} swaps, and at the end."
    report("soak-swaps", "Agent: swap after swap", ReportTable(caption, columns, [row]))
    assert end.descriptors == warm.descriptors
    assert end.threads == warm.threads
    assert end.directories == warm.directories == 1
    assert end.mib < warm.mib + 2, "Python takes memory from the system, and gives it back, a mebibyte at a time"
    assert len(complaints) <= SWAPS, "a slow machine hangs up on a server that still writes: one line at most for each"
