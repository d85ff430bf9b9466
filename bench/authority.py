"""How one authority grows with its fleet: every receipt of a rotation over a TLS connection of its own, within 20 s.

The authority and its agents are processes of their own. Each agent sends real receipts: one that proves the first
statement, and then, after a forced rotation, one that proves the second; the second wave is what is measured. A scrape
and a look at the status every few seconds go on meanwhile, as in a real deployment. A receipt is in the view when the
authority has noted its arrival, as ``/api/v1/fleet`` says it; both clocks are those of one machine.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.agents import Wave
from tests.harness.authority.deployment import AuthorityDeployment, Program, ask
from tests.harness.measurements import ReportTable, Sample

TITLE = "The authority: a rotation's receipts, each on a new TLS connection"

COUNTS = (1_000, 3_000, 10_000)
SECONDS = 20.0
BUDGET_MIB = 250
BUDGET_SECONDS = 2.0

_LOOK_SECONDS = 5.0
_MEMORY_SECONDS = 0.1


@dataclass
class Watched:
    """The authority's process while it is measured."""

    process: psutil.Process
    rss: int = 0
    cpu: float = 0.0
    looks: list[float] = field(default_factory=list)

    async def memory(self) -> None:
        while True:
            self.rss = max(self.rss, self.process.memory_info().rss)
            await asyncio.sleep(_MEMORY_SECONDS)

    async def looks_on(self, session: aiohttp.ClientSession) -> None:
        while True:
            for path in ("/metrics", "/api/v1/status"):
                began = time.monotonic()
                async with session.get(path) as response:
                    response.raise_for_status()
                    await response.read()
                self.looks.append(time.monotonic() - began)
            await asyncio.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def _busy(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
            raise error


async def measure() -> list[ReportTable]:
    """One authority after another, each with a larger fleet."""
    rows = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as home:
            rows.append(await _measure(Path(home), count))
    columns = ["agents", "RSS idle, MiB", "most RSS, MiB", "CPU per receipt, ms"]
    columns += [
        "sent to in the view, ms",
        "slowest, ms",
        "sent to answered, ms",
        "sent again",
        "status and metrics, ms",
    ]
    columns += ["fleet, ms"]
    caption = (
        f"{SECONDS:g} s for every agent's receipt. Budget: {BUDGET_MIB} MiB, and every receipt in the view within "
        f"{BUDGET_SECONDS:g} s after it was sent."
    )
    return [ReportTable(caption, columns, rows)]


async def _measure(home: Path, count: int) -> list[Any]:
    agents = [f"agent-{number:05d}" for number in range(count)]
    entries = "".join(f'[[agents]]\nname = "{name}"\nclass = "application"\n' for name in agents)
    deployment = AuthorityDeployment.create(home / "deployment", preset="testing", more=entries)
    deployment.init()
    async with Program(deployment) as program, AsyncExitStack() as stack:
        await program.start()
        session = await stack.enter_async_context(deployment.session(deployment.token("operator")))
        watched = Watched(psutil.Process(program.pid))
        idle = watched.process.memory_info().rss
        async with _busy(asyncio.create_task(watched.memory())):
            await _wave(deployment, session, agents, 1)
            async with session.post("/api/v1/rotate", json={"reason": "bench"}) as response:
                response.raise_for_status()
            before = sum(watched.process.cpu_times()[:2])
            async with _busy(asyncio.create_task(watched.looks_on(session))):
                sent, newest = await _wave(deployment, session, agents, 2)
            watched.cpu = sum(watched.process.cpu_times()[:2]) - before
            began = time.monotonic()
            fleet = await ask(session, "/api/v1/fleet")
            fleet_seconds = time.monotonic() - began
        arrived = {agent["name"]: agent for agent in fleet["agents"]}
        missing = [name for name in agents if arrived[name]["receipt"]["proven"]["sequence"] != newest]
        if missing:
            raise RuntimeError(f"expected every receipt in the view, found {len(missing)} missing")
    view = Sample(tuple(1000 * (arrived[name]["received_at"] - sent[name][0]) for name in agents))
    answered = Sample(tuple(1000 * sent[name][1] for name in agents))
    looks = Sample(tuple(1000 * seconds for seconds in watched.looks))
    mib = [round(rss / 2**20, 1) for rss in (idle, watched.rss)]
    again = sum(int(sent[name][2]) - 1 for name in agents)
    figures = [count, *mib, 1000 * watched.cpu / count, view, view.highest, answered, again, looks]
    return [*figures, 1000 * fleet_seconds]


async def _wave(
    deployment: AuthorityDeployment, session: aiohttp.ClientSession, agents: list[str], number: int
) -> tuple[dict[str, list[float]], int]:
    """Every agent proves the newest statement; when each began to send, and after how long it had its answer."""
    newest = (await ask(session, "/api/v1/status"))["newest"]
    ca = (await deployment.trust()).control_ca or ""
    token = deployment.token("agent")
    wave = Wave(deployment.url, ca, token, agents, SECONDS, newest["sequence"], newest["digest"], number)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.agents", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(json.dumps(asdict(wave)).encode())
    if process.returncode:
        raise RuntimeError(f"bench.agents: expected status 0, found {process.returncode}")
    return json.loads(out), newest["sequence"]
