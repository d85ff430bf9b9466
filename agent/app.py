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
from agent.loop.candidates import Candidates
from agent.loop.cycle import Cycle
from agent.loop.delivery import Delivery, Waits, Workload
from agent.loop.once import install_once
from agent.loop.rejections import Rejections
from agent.loop.retry import Retry
from agent.loop.rollout import Rollout
from agent.loop.timing import RetryPolicy
from agent.loop.wakeup import Wakeup
from agent.reporting import http_server
from agent.reporting.metrics import AgentMetrics
from agent.reporting.receipts import AuthorityTls, ReceiptReporter
from agent.reporting.recorder import Recorder
from agent.reporting.status import AgentIdentity, AgentStatus
from agent.reporting.status_store import StatusStore
from agent.sources.watching import MountSources
from agent.store.output_directory import OutputDirectory
from agent.store.set_store import SetStore
from agent.workloads.http_reloader import HttpReloader
from agent.workloads.provers import EchoProver, ServerProver
from agent.workloads.targets import SignalTarget, SystemTarget, Target

if TYPE_CHECKING:
    from agent.sources.jetstream import AnnouncementListener


VERSION = "0.1.0"

Work = dict[str, Callable[[], Coroutine[Any, Any, None]]]
"""The tasks to run concurrently, by name."""


def splay_of(pod: str, splay: float) -> float:
    """This pod's share of ``splay``, in seconds: the same at every call, and spread evenly over a fleet."""
    return int.from_bytes(hashlib.sha256(pod.encode()).digest()[:8]) / 2**64 * splay


def _workload(target: Target, config: AgentConfig, http: aiohttp.ClientSession) -> Workload:
    if isinstance(target, SignalTarget):
        # Imported here, as for announcements: psutil takes memory.
        from agent.workloads.signal_reloader import SignalReloader  # noqa: PLC0415

        return Workload(target, SignalReloader(target), ServerProver(target, http))
    if isinstance(target, SystemTarget):
        # Imported here, as for announcements: nats-py takes megabytes.
        memory_footprint.import_nats()
        from agent.workloads.nats_reloader import SystemReloader  # noqa: PLC0415

        return Workload(target, SystemReloader(target), ServerProver(target, http))
    return Workload(target, HttpReloader(target, http), EchoProver(), splay_of(config.pod, config.splay))


def _announcements(config: AgentConfig, recorder: Recorder, clocks: Clocks) -> "AnnouncementListener | None":
    if not config.nats_servers:
        return None
    # Imported here: nats-py takes megabytes, and an agent without a broker need not load it.
    memory_footprint.import_nats()
    from agent.clients import nats_credentials  # noqa: PLC0415
    from agent.sources.jetstream import AnnouncementListener  # noqa: PLC0415

    return AnnouncementListener(
        servers=config.nats_servers,
        directory=config.out,
        login=lambda: (
            {"name": f"tidemark-agent {config.pod}", "tls_handshake_first": config.nats_handshake_first}
            | (dict(nats_credentials.with_creds(config.nats_creds)) if config.nats_creds else {})
        ),
        observer=recorder,
        now=clocks.now,
    )


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent's parts, put together."""

    status_store: StatusStore
    registry: CollectorRegistry
    cycle: Cycle
    work: Work
    """The tasks that make the agent run."""


def assemble(config: AgentConfig, http: aiohttp.ClientSession, clocks: Clocks, policy: RetryPolicy) -> Agent:
    """Put the parts together; nothing runs until the tasks of ``work`` do."""
    registry, wakeup, retry = CollectorRegistry(), Wakeup(), Retry(policy)
    metrics, status_store = AgentMetrics(registry), _status_store(config)
    recorder = Recorder(status_store, metrics, clocks.now)
    announcements = _announcements(config, recorder, clocks)
    store = SetStore(OutputDirectory(config.out), str(config.bundle), clocks)
    candidates = Candidates(store, clocks, announcements)
    workloads = [_workload(target, config, http) for target in config.targets]
    rollout = Rollout(
        directory=config.out,
        store=store,
        delivery=Delivery(workloads, policy, metrics, Waits(wakeup.pause, wakeup.idle)),
        recorder=recorder,
        clocks=clocks,
        wakeup=wakeup,
        retry=retry,
        on_installed=candidates.follow_installed_set,
    )
    rejections = Rejections(recorder, wakeup, clocks, policy)
    cycle = Cycle(store, candidates, rejections, rollout, retry, recorder, wakeup)
    sources = MountSources(config.bundle, config.leaf, config.trust, config.watch)
    work: Work = {
        "cycle": cycle.run,
        "sources": partial(sources.run, cycle.on_source_change),
        "memory": memory_footprint.return_memory,
    }
    if announcements is not None:
        work["announcements"] = partial(announcements.run, cycle.on_announcement)
    if config.authority_url and config.token_file:
        tls = AuthorityTls(lambda: cycle.control_ca)
        reporter = ReceiptReporter(config.authority_url, config.token_file, status_store, http, tls, clocks.now)
        work["receipts"] = reporter.run
    return Agent(status_store, registry, cycle, work)


def _status_store(config: AgentConfig) -> StatusStore:
    identity = AgentIdentity(config.pod, config.uid, config.pod_class, secrets.token_hex(8), VERSION)
    return StatusStore(AgentStatus(identity))


def connections() -> aiohttp.ClientSession:
    """The session of all HTTP requests of the agent; it uses no proxy and keeps no cookies."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


async def run(config: AgentConfig, clocks: Clocks) -> None:
    """Run the agent until SIGTERM or SIGINT; raises OSError where it cannot listen."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with connections() as http:
        agent = assemble(config, http, clocks, RetryPolicy())
        app = http_server.application(agent.status_store, agent.registry, clocks.now)
        runner = await http_server.start(app, config.listen.host, config.listen.port)
        log.event("started", pod=config.pod, targets=len(config.targets), listen=str(config.listen))
        _warn_of_probes(config)
        try:
            await until(stop, agent.work)
        finally:
            await runner.cleanup()
        log.event("stopped", state=agent.status_store.status.state.value)


def _warn_of_probes(config: AgentConfig) -> None:
    """Say beforehand what servers log of the probes of an agent that has no leaf to present (decision 19)."""
    for target in config.targets:
        if config.leaf is None and isinstance(target, SignalTarget) and target.tls:
            ports = ", ".join(map(str, target.tls))
            detail = (
                f"without TIDEMARK_LEAF the agent probes {ports} without a client certificate, and the server logs an "
                "error for each rotation; mount the Secret of the server's leaf and set TIDEMARK_LEAF to avoid that"
            )
            log.warning("probe_without_client_certificate", target=target.name, detail=detail)


async def until(stop: asyncio.Event, work: Work) -> None:
    """Run named tasks until ``stop``; a task that ends before is an error."""
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
    recorder = Recorder(_status_store(config), AgentMetrics(CollectorRegistry()), clocks.now)
    snapshot = MountSources(config.bundle, config.leaf, config.trust).read()
    store = SetStore(OutputDirectory(config.out), str(config.bundle), clocks)
    return await install_once(snapshot, store, _announcements(config, recorder, clocks), clocks)
