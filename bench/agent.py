"""The agent's budgets, measured on a real nats-server with mutual TLS, and two ways without an agent beside it.

A change is a bundle of other CAs. When the server has reloaded, it says itself (``config_load_time``); when the agent
has proven that, its status says. A miss of a budget is shown as one.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.workloads import tls_probe
from agent.workloads.targets import Address
from bench.reloaders import BaoAgent, InotifyLoop, Monitor, Reloading, TidemarkAgent
from tests.harness.agent.fake_authority import TOKEN, FakeAuthority
from tests.harness.agent.mounts import bundle_files, leaf_files, parsed
from tests.harness.agent.sandbox import AgentProcess
from tests.harness.contract.bundle_factory import BundleFactory, LeafFiles
from tests.harness.measurements import Cell, ReportTable, Sample
from tests.harness.nats.announcement_broker import AnnouncementBroker
from tests.harness.nats.server import NatsServer
from tests.harness.waiting import eventually
from tidemark.bundle import Bundle
from tidemark.certificates import parse_certificates, to_pem

TITLE = "The agent: from a swapped Secret to a proven nats-server, at rest, and at its start"

SWAPS = int(os.environ.get("BENCH_SWAPS", "200"))
SLOW_SWAPS = int(os.environ.get("BENCH_SLOW_SWAPS", "60"))  # where each takes a second
STARTS = int(os.environ.get("BENCH_STARTS", "20"))
IDLE_SECONDS = float(os.environ.get("BENCH_IDLE", "60"))
_SCRAPE_SECONDS = 15.0
_PAUSE = 0.1  # between a swap that is done and the next
_MEBIBYTE = 2**20


@dataclass
class Bench:
    """What everything is measured on; bundles of two kinds take turns, and all have the leaf's CA."""

    factory: BundleFactory
    leaf: LeafFiles
    server: NatsServer
    monitor: Monitor
    sequence: int = 0

    def bundle(self) -> Bundle:
        self.sequence += 1
        newest = self.factory.epoch + self.sequence % 2
        return self.factory.bundle(self.sequence, [newest, newest - 1])


async def measure() -> list[ReportTable]:
    """The swaps of every way, then all of them at rest at once, then starts."""
    with tempfile.TemporaryDirectory() as home:
        folder, factory, authority = Path(home), BundleFactory(int(time.time())), FakeAuthority()
        server = NatsServer(folder / "nats", folder / "files")
        bench = Bench(factory, factory.leaf(), server, Monitor(server))
        (folder / "broker-files").mkdir()
        broker = AnnouncementBroker(folder / "broker", folder / "broker-files")
        ways: list[Reloading] = []
        try:
            await authority.start()
            await _announce(broker, bench)
            agent = _tidemark(folder / "tidemark", bench, authority, broker)
            peers: list[Reloading] = [InotifyLoop(_made(folder / "loop"), bench.leaf, bench.server)]
            peers += [BaoAgent(_made(folder / "bao"), bench.leaf, bench.server)]
            ways = [agent, *(way for way in peers if not isinstance(way, InotifyLoop) or way.is_installed())]
            proven, swaps = await _swap_with(ways, bench)
            rest = await _rest(ways, agent.agent)
            starts = await _starts(agent, folder)
        finally:
            for way in ways:
                way.stop()
            server.stop()
            broker.stop()
            await authority.stop()
    return _tables(ways, proven, swaps, rest, starts)


def _tables(
    ways: Sequence[Reloading],
    proven: Sample,
    swaps: Sequence[Sequence[Cell]],
    rest: Sequence[list[float]],
    starts: Sample,
) -> list[ReportTable]:
    left_out = "" if InotifyLoop.is_installed() else " The loop around inotifywait is left out: it is not installed."
    columns = [
        "way",
        "verifies",
        "proves",
        "swap to reloaded, ms",
        "never",
        "a bundle cut off in its second certificate",
    ]
    use = ["way", "RSS, MiB", "of it anonymous, MiB", "processor at rest, millicores"]
    return [
        _budgets(proven, rest[0], starts),
        ReportTable(f"Every way on the same server, one after another.{left_out}", columns, swaps),
        ReportTable(
            f"At rest for {IDLE_SECONDS:.0f} s after the swaps, all at once; the agent with receipts, a leaf, the "
            f"broker, and a scrape every {_SCRAPE_SECONDS:.0f} s; an epoch has 20 minutes.",
            use,
            [[way.name, *figures] for way, figures in zip(ways, rest, strict=True)],
        ),
    ]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _announce(broker: AnnouncementBroker, bench: Bench) -> None:
    """Have a broker announce the first bundle; the mount is ahead of it from then on."""
    bundle = bench.bundle()
    for name, content in (bundle_files(bundle) | leaf_files(bench.leaf)).items():
        (broker.files / name).write_bytes(content)
    await broker.start()
    await broker.announce(bundle)


def _tidemark(folder: Path, bench: Bench, authority: FakeAuthority, broker: AnnouncementBroker) -> TidemarkAgent:
    """With everything on: receipts, a leaf of its own, and the broker as its second source."""
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    variables = {
        "TIDEMARK_AUTHORITY_URL": authority.url,
        "TIDEMARK_AUTHORITY_TOKEN_FILE": str(folder / "token"),
        "TIDEMARK_NATS_URL": broker.url,
    }
    way = TidemarkAgent(folder, bench.factory, bench.leaf, bench.server, **variables)
    way.sandbox.write_trust_file(bench.factory.trust(control_ca=to_pem([authority.ca]).decode()))
    return way


def _budgets(proven: Sample, rest: Sequence[float], starts: Sample) -> ReportTable:
    rss, anonymous, millicores = rest
    found = [
        (f"swap to proven, median of {len(proven)}", "ms", 60.0, proven.median),
        (f"swap to proven, p99 of {len(proven)}", "ms", 150.0, proven.p99),
        ("RSS, everything on", "MiB", 56.0, rss),
        ("of it anonymous", "MiB", 38.0, anonymous),
        (f"processor at rest, over {IDLE_SECONDS:.0f} s", "millicores", 4.0, millicores),
        (f"start to installed, slowest of {len(starts)}", "s", 1.0, starts.highest),
        (f"start to installed, median of {len(starts)}", "s", 1.0, starts.median),
    ]
    rows: list[list[Cell]] = [
        [what, f"≤ {budget:g} {unit}", f"{value:.2f} {unit}", "kept" if value <= budget else "missed"]
        for what, unit, budget, value in found
    ]
    return ReportTable("The budgets.", ["what", "budget", "found", ""], rows)


async def _swap_with(ways: Sequence[Reloading], bench: Bench) -> tuple[Sample, list[list[Cell]]]:
    """The agent's swaps to proven, and of each way the row of its swaps to reloaded."""
    proven: list[float] = []
    rows: list[list[Cell]] = []
    for way in ways:
        await way.start(bench.bundle())
        await bench.monitor.point_to(way)
        if bench.server.process is None:
            await bench.server.start()
            await bench.server.is_older_than(2)
        if isinstance(way, TidemarkAgent):
            await way.agent.answers("/readyz")
        reloaded, never = [], 0
        for _ in range(SLOW_SWAPS if isinstance(way, BaoAgent) else SWAPS):
            before = bench.monitor.load_time()
            changed = way.change(bench.bundle())
            if isinstance(way, TidemarkAgent):
                proven.append(1000 * (await _proven_at(way, bench.sequence) - changed))
            if loaded := await bench.monitor.moved(before):
                reloaded.append(1000 * (loaded - changed))
            else:
                never += 1
            await asyncio.sleep(_PAUSE)  # the pace
        rows.append([way.name, way.verifies, way.proves, Sample(tuple(reloaded)), never, await _cut_off(way, bench)])
    return Sample(tuple(proven)), rows


async def _proven_at(way: TidemarkAgent, sequence: int) -> float:
    """Wait for the proof without asking the agent meanwhile; returns when it was, by the wall clock."""
    await eventually(lambda: way.remembers() == sequence, "a proof")
    last = way.agent.status()["journeys"][-1]
    if last["sequence"] != sequence:
        raise RuntimeError(f"expected a proof of sequence {sequence}, found {last}")
    return float(last["proven_at"])


async def _cut_off(way: Reloading, bench: Bench) -> str:
    """Give it a bundle that lost its end on the way; what the server trusts then."""
    whole, before = bench.bundle(), bench.monitor.load_time()
    way.change(Bundle(whole.ca[: whole.ca.index(b"-----BEGIN", 10) + 300], whole.note))
    if isinstance(way, TidemarkAgent):
        failure = await eventually(lambda: way.agent.status()["failure"], "a refusal")
        finding = f"kept out (`{failure['reason']}`)"
    else:
        loaded = await bench.monitor.moved(before)
        before, finding = loaded or before, "loaded" if loaded else "not loaded"
    context = tls_probe.client_context(parsed(bench.leaf))
    shown = await tls_probe.probe(Address("127.0.0.1", bench.server.client), context)
    trusted = f"{finding}; the server trusts {len(shown.ca_names)} of {len(parse_certificates(whole.ca))} CAs"
    way.change(bench.bundle())
    await bench.monitor.moved(before)
    return trusted


async def _rest(ways: Sequence[Reloading], agent: AgentProcess) -> list[list[float]]:
    """RSS and anonymous memory in MiB at the end, and millicores over the time."""
    families = [way.processes() for way in ways]
    await asyncio.sleep(2)  # what the last swap left is done
    begun, before = time.monotonic(), [_seconds(family) for family in families]
    while time.monotonic() - begun < IDLE_SECONDS:
        await asyncio.sleep(min(_SCRAPE_SECONDS, max(0.0, IDLE_SECONDS - (time.monotonic() - begun))))
        agent.get("/metrics")
    elapsed = time.monotonic() - begun
    used = [_seconds(family) - seconds for family, seconds in zip(families, before, strict=True)]
    return [[*_memory(family), 1000 * seconds / elapsed] for family, seconds in zip(families, used, strict=True)]


def _seconds(family: Sequence[psutil.Process]) -> float:
    """Processor time of all threads so far, to the nanosecond (``/proc/<pid>/task/<tid>/schedstat``)."""
    tasks = (task for one in family for task in Path(f"/proc/{one.pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _memory(family: Sequence[psutil.Process]) -> tuple[float, float]:
    """RSS, and what of it is anonymous, in MiB."""
    rss = anonymous = 0
    for one in family:
        lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        rss += sizes["Rss"]
        anonymous += sizes["Anonymous"]
    return rss / _MEBIBYTE, anonymous / _MEBIBYTE


async def _starts(way: TidemarkAgent, folder: Path) -> Sample:
    """Seconds from the start of a process to the first set in its output directory."""
    seconds = []
    for number in range(STARTS):
        out = folder / f"start-{number}"
        variables = way.variables | {"TIDEMARK_OUT": str(out), "TIDEMARK_TARGETS": ""}
        agent = AgentProcess(way.sandbox.environment(**variables))
        begun = time.monotonic()
        agent.start(folder / "starts.log")
        try:
            while not (out / "..data").is_symlink():
                await asyncio.sleep(0.001)
                if time.monotonic() - begun > 60:
                    raise TimeoutError(f"{out}: expected a set to be installed within 60 s, found none")
            seconds.append(time.monotonic() - begun)
        finally:
            agent.stop()
    return Sample(tuple(seconds))
