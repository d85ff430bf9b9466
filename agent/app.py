"""The agent's composition root: makes the parts from the configuration, connects and runs them."""

import asyncio
import hashlib
import secrets
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Never

import aiohttp
from prometheus_client import CollectorRegistry

from agent import log, memory_footprint
from agent.clocks import Clocks
from agent.config import AgentConfig
from agent.loop.cycle import Cycle
from agent.loop.delivery import Delivery, Workload
from agent.loop.once import install_once
from agent.loop.timing import RetryPolicy
from agent.loop.wakeup import Wakeup
from agent.reporting import http_server
from agent.reporting.metrics import AgentMetrics
from agent.reporting.receipts import ReceiptReporter
from agent.reporting.recorder import Recorder
from agent.reporting.status import AgentIdentity, AgentStatus
from agent.reporting.status_store import StatusStore
from agent.sources.mounts import MountSources
from agent.store.output_directory import OutputDirectory
from agent.store.set_store import SetStore
from agent.workloads.http_reloader import HttpReloader
from agent.workloads.provers import EchoProver, ServerProver
from agent.workloads.signal_reloader import SignalReloader
from agent.workloads.targets import SignalTarget, SystemTarget, Target

if TYPE_CHECKING:
    from agent.sources.jetstream import AnnouncementListener


VERSION = "0.1.0"

Work = dict[str, Callable[[], Coroutine[Any, Any, None]]]
"""What has to run side by side, by name."""


def splay_of(pod: str, splay: float) -> float:
    """This pod's share of the splay, in seconds: always the same one, and spread evenly over a fleet."""
    return int.from_bytes(hashlib.sha256(pod.encode()).digest()[:8]) / 2**64 * splay


def _workload(target: Target, config: AgentConfig, http: aiohttp.ClientSession) -> Workload:
    if isinstance(target, SignalTarget):
        return Workload(target, SignalReloader(target), ServerProver(target, http))
    if isinstance(target, SystemTarget):
        # Only now, as with the announcement.
        memory_footprint.import_nats()
        from agent.workloads.nats_reloader import SystemReloader  # noqa: PLC0415

        return Workload(target, SystemReloader(target), ServerProver(target, http))
    return Workload(target, HttpReloader(target, http), EchoProver(), splay_of(config.pod, config.splay))


def _announcement(config: AgentConfig, chronicle: Recorder, clocks: Clocks) -> "AnnouncementListener | None":
    if not config.nats_servers:
        return None
    # Only now: nats-py takes megabytes, and an agent without a broker need not have it.
    memory_footprint.import_nats()
    from agent.clients import nats_credentials  # noqa: PLC0415
    from agent.sources import jetstream as announcement  # noqa: PLC0415

    return announcement.AnnouncementListener(
        servers=config.nats_servers,
        directory=config.out,
        login=lambda: (
            {"name": f"tidemark-agent {config.pod}", "tls_handshake_first": config.nats_handshake_first}
            | (dict(nats_credentials.with_creds(config.nats_creds)) if config.nats_creds else {})
        ),
        tell=chronicle.broker,
        now=clocks.now,
    )


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent's parts, put together."""

    board: StatusStore
    registry: CollectorRegistry
    cycle: Cycle
    work: Work


def assemble(config: AgentConfig, http: aiohttp.ClientSession, clocks: Clocks, patience: RetryPolicy) -> Agent:
    """Put the parts together; nothing runs yet. ``work`` is what then has to run, by name."""
    registry, alarm = CollectorRegistry(), Wakeup()
    metrics = AgentMetrics(registry)
    board = StatusStore(
        AgentStatus(AgentIdentity(config.pod, config.uid, config.pod_class, secrets.token_hex(8), VERSION))
    )
    workloads = [_workload(target, config, http) for target in config.targets]
    chronicle = Recorder(board, metrics, clocks.now)
    announcement = _announcement(config, chronicle, clocks)
    cycle = Cycle(
        directory=config.out,
        holdings=SetStore(OutputDirectory(config.out), str(config.bundle), clocks),
        handover=Delivery(workloads, patience, metrics, alarm.pause, alarm.idle),
        chronicle=chronicle,
        clocks=clocks,
        alarm=alarm,
        patience=patience,
        announcements=announcement,
    )
    sources = MountSources(config.bundle, config.leaf, config.trust)
    work: Work = {
        "cycle": cycle.run,
        "sources": partial(sources.run, cycle.take),
        "lean": memory_footprint.give_back,
    }
    if announcement is not None:
        work["announcement"] = partial(announcement.run, cycle.hear)
    if config.authority_url and config.token_file:
        work["reporter"] = ReceiptReporter(
            config.authority_url, config.token_file, board, http, lambda: cycle.control_ca, clocks.now
        ).run
    return Agent(board, registry, cycle, work)


def connections() -> aiohttp.ClientSession:
    """The session for everything that the agent asks over HTTP; its addresses are given, never proxied."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


async def run(config: AgentConfig, clocks: Clocks) -> None:
    """Run the agent until SIGTERM or SIGINT; raises OSError where it cannot listen."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with connections() as http:
        agent = assemble(config, http, clocks, RetryPolicy())
        app = http_server.application(agent.board, agent.registry, clocks.now)
        runner = await http_server.start(app, config.listen.host, config.listen.port)
        log.event("started", pod=config.pod, targets=len(config.targets), listen=str(config.listen))
        _tell_of_noise(config)
        try:
            await until(stop, agent.work)
        finally:
            await runner.cleanup()
        log.event("stopped", state=agent.board.status.state.value)


def _tell_of_noise(config: AgentConfig) -> None:
    """Say beforehand what servers will log of an agent that has no leaf to present (decision 19)."""
    for target in config.targets:
        if config.leaf is None and isinstance(target, SignalTarget) and target.tls:
            ports = ", ".join(map(str, target.tls))
            detail = (
                f"without TIDEMARK_LEAF the server logs an error of each look at {ports}, one for each rotation; with "
                "the Secret of its leaf mounted there it logs none"
            )
            log.warning("looks_are_logged", target=target.name, detail=detail)


async def until(stop: asyncio.Event, work: Work) -> None:
    """Run named tasks until ``stop``; one that ends by itself is an error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_endless(name, part), name=name) for name, part in work.items()]
        await stop.wait()
        for task in tasks:
            task.cancel()


async def _endless(name: str, part: Callable[[], Coroutine[Any, Any, None]]) -> Never:
    await part()
    raise RuntimeError(f"task {name}: expected it to run until it is cancelled, it ended")


async def run_once(config: AgentConfig, clocks: Clocks) -> int:
    """Install one set; returns the exit status."""
    board = StatusStore(
        AgentStatus(AgentIdentity(config.pod, config.uid, config.pod_class, secrets.token_hex(8), VERSION))
    )
    chronicle = Recorder(board, AgentMetrics(CollectorRegistry()), clocks.now)
    sighting = MountSources(config.bundle, config.leaf, config.trust).look()
    holdings = SetStore(OutputDirectory(config.out), str(config.bundle), clocks)
    return await install_once(sighting, holdings, _announcement(config, chronicle, clocks), clocks)
