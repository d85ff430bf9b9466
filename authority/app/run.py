"""The authority's composition root: makes the parts from the configuration, connects and runs them."""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tidemark.nats
from authority.api import routes
from authority.api.address import address, address_for_replicas, write_address
from authority.api.leader_proxy import open_leader_proxy
from authority.api.operations import Operations
from authority.api.tokens import read_tokens
from authority.app.backends import Backends, open_backends
from authority.app.cluster import Cluster, open_cluster, watching
from authority.app.trust import trust_by
from authority.config.injector import InjectorConfig
from authority.config.kubernetes import SecretName
from authority.config.load import AuthorityConfig, JetStreamConfig
from authority.controllers.cert_manager import CertManagerController
from authority.controllers.connection_monitor import ConnectionMonitor
from authority.controllers.context import ControllerContext
from authority.controllers.leadership import follow, lead
from authority.controllers.leaves import LeafController
from authority.controllers.rotation import RotationController, RotationDependencies
from authority.election.file import FileElection
from authority.election.interface import Election, ElectionError, Replica
from authority.fleet.members import ConfiguredMembers, Members
from authority.fleet.registry import FleetRegistry
from authority.fleet.view import ExpectedAgent
from authority.injector import server as webhook
from authority.injector.ca_bundle import keep_ca_bundle
from authority.issuer.serialized import SerializedIssuer
from authority.journal.store import JournalStore
from authority.kubernetes.errors import KubernetesError
from authority.observability.event_log import EventLog
from authority.observability.metrics import AuthorityMetrics
from authority.pki.keystore import KeystoreError
from authority.pki.names import OWN_LEAF
from authority.pki.server_certificate import ServerCertificate
from authority.publishers.directory import DirectoryPublisher
from authority.publishers.interface import Publisher
from authority.publishers.jetstream import BrokerConnection, JetStreamPublisher
from authority.publishers.leaf_directory import DirectoryLeafStore
from authority.publishers.leaf_store import LeafStore
from authority.publishers.timed import TimedPublisher
from authority.rotation.events import AnchorsRemoved, Event, Prepared, WithdrawalAsked
from authority.rotation.leaf_renewal import LeafSubject
from authority.support.log_format import RepeatFilter
from authority.support.tasks import Task, until
from authority.web import connection_limit
from authority.web.listener import listen, start
from tidemark.certificates import to_pem
from tidemark.trust import Trust

Clock = Callable[[], float]

Elect = Callable[[Replica], Election]

log = logging.getLogger("authority")


async def run(
    config: AuthorityConfig, stop: asyncio.Event, clock: Clock = time.time, elect: Elect | None = None
) -> None:
    """Run until ``stop`` is set; ``elect`` makes this replica's election where files are not to decide.

    Raises:
        KeystoreError, SignerError, IssuerError: the state directory is not what ``init`` makes.
        ListenError: the API cannot listen where it should.
        ElectionError: replicas cannot agree on who leads.
        KubernetesError: there are no credentials for Kubernetes where it is asked for.
    """
    async with open_backends(config, clock) as kept, open_cluster(config.kubernetes) as cluster:
        tokens = replace(read_tokens(config.state), reviewer=cluster.reviewer() if cluster else None)
        certificate = ServerCertificate(kept.control, config.api.names)
        await certificate.renew(int(clock()))
        await kept.issuer.roots()  # now, rather than at the first rotation: without them there is nothing to do
        trust = await trust_by(config, kept.signer, kept.control.certificate)
        with closing(await listen(config.api.listen.host, config.api.listen.port, "api.listen")) as listening:
            port = listening.getsockname()[1]
            name = f"{socket.gethostname()}-{secrets.token_hex(3)}"
            me = Replica(name, address_for_replicas(config.api, port))
            election = _election(config, me, cluster, elect)
            log.info("listening", extra={"fields": {"replica": me.name, "url": me.url}})
            async with (
                _publishers(config, trust, cluster) as publishers,
                open_leader_proxy(election, kept.control.certificate, config.api.names[0]) as forwards,
                _injecting(config.injector, kept, cluster, clock) as injecting,
            ):
                desk = _joined(_Parts(config, trust, kept, election, cluster, clock), publishers)
                api = routes.Api(desk, tokens, open_reads=config.api.open_reads, forwarding=forwards)
                runner, answer = await start(api.application())
                announce = partial(write_address, config.state, address(config.api, port))
                announce(over=False)
                try:
                    await until(
                        stop.wait(),
                        {
                            "api": partial(
                                connection_limit.serve, listening, answer, certificate.context, _turned_away("api")
                            ),
                            "election": election.run,
                            "leading": partial(
                                lead, election, desk.here, _sequencers(desk), partial(announce, over=True)
                            ),
                            "following": partial(follow, election, desk.here),
                            "tokens": partial(tokens.keep_current, config.state, _tokens_not_read()),
                            "api certificate": partial(certificate.keep_renewed, clock, _certificate_not_renewed),
                            **injecting,
                            **watching(publishers, desk.roster.members),
                        },
                    )
                finally:
                    await runner.cleanup()


def _sequencers(desk: Operations) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
    """What runs while this replica leads, and at no other time."""
    return {
        "rotation": desk.rotation.run,
        "leaves": desk.leaves.run,
        "reissues": desk.reissues.run,
        "connections": desk.connections.run,
    }


def _election(config: AuthorityConfig, me: Replica, cluster: Cluster | None, elect: Elect | None) -> Election:
    if elect is not None:
        return elect(me)
    return _by_files(config, me) if cluster is None else cluster.election(me, config.election.lease_seconds)


def _by_files(config: AuthorityConfig, me: Replica) -> FileElection:
    repetitions = RepeatFilter()

    def complain(error: ElectionError) -> None:
        if not repetitions.is_one("", str(error), time.monotonic()):
            log.warning("election", extra={"fields": {"error": str(error)}})

    return FileElection(me, config.election.directory, complain, config.election.lease_seconds)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is joined to an authority."""

    config: AuthorityConfig
    trust: Trust
    kept: Backends
    election: Election
    cluster: Cluster | None
    clock: Clock


def _joined(parts: _Parts, publishers: Sequence[Publisher]) -> Operations:
    config, kept, election, clock = parts.config, parts.kept, parts.election, parts.clock
    roster = FleetRegistry(_members(parts, lambda: rotation.wake()), config.timing.clock)  # noqa: PLW0108 - made below
    timeline = JournalStore(kept.journal, lambda: election.leads)
    issuer = SerializedIssuer(kept.issuer)
    timed = [TimedPublisher(each, lambda digest: roster.ledger.publishing(digest, clock())) for each in publishers]
    outside = RotationDependencies(
        issuer, kept.signer, timed, config.include_root, roster.fleet, config.withdrawal.rollback_above
    )
    chronicle, meters = EventLog(), AuthorityMetrics()

    def observe(event: Event) -> None:
        match event:
            case Prepared(digest=digest) | AnchorsRemoved(digest=digest):
                roster.ledger.follow(timeline.history.statements)
                roster.ledger.committed(digest)
            case WithdrawalAsked(ca=ca):
                roster.distrust.asked(ca, clock())
        if isinstance(event, AnchorsRemoved):
            for ca in event.cas:
                roster.distrust.left_out(ca, clock())
        chronicle.observe(event)
        meters.observe(event)

    references = dict(kept.references) | ({"the API server": parts.cluster.client} if parts.cluster else {})
    here = ControllerContext(timeline, parts.trust, config.timing, lambda: int(clock()), observe, references=references)
    leaves, rotation = (
        LeafController(here, issuer, _leaf_stores(config, parts.cluster)),
        RotationController(here, outside),
    )
    reissues = CertManagerController(
        here, parts.cluster.cert_manager() if parts.cluster else None, lambda: rotation.active
    )
    connections = ConnectionMonitor(here, config.withdrawal.monitors, _monitor_failed())
    return Operations(here, rotation, leaves, reissues, connections, roster, chronicle, meters, election, clock)


def _monitor_failed() -> Callable[[str, str], None]:
    repetitions = RepeatFilter()

    def complain(server: str, error: str) -> None:
        if not repetitions.is_one(server, error, time.monotonic()):
            log.warning("monitor_failed", extra={"fields": {"server": server, "error": error}})

    return complain


def _members(parts: _Parts, on_change: Callable[[], None]) -> Members:
    """Who belongs to the fleet: pods, or else whom the configuration lists."""
    pods = parts.cluster.members(on_change) if parts.cluster else None
    if pods is not None:
        return pods
    now, agents = int(parts.clock()), parts.config.agents
    return ConfiguredMembers(ExpectedAgent(one.name, one.pod_class, uid="", ready=True, since=now) for one in agents)


@asynccontextmanager
async def _publishers(config: AuthorityConfig, trust: Trust, cluster: Cluster | None) -> AsyncIterator[list[Publisher]]:
    """The configured publishers; the authority's own identity for the broker is one more directory."""
    directories = [*config.directories, *([config.jetstream.directory] if config.jetstream else [])]
    publishers: list[Publisher] = [cluster.publisher(trust)] if cluster else []
    if directories or not publishers:
        publishers.append(DirectoryPublisher(directories, trust))
    if config.jetstream is None:
        yield publishers
        return
    jetstream = JetStreamPublisher(partial(_connect, config.jetstream), trust, config.jetstream.replicas)
    try:
        yield [*publishers, jetstream]
    finally:
        await jetstream.close()


async def _connect(config: JetStreamConfig) -> BrokerConnection:
    repetitions = RepeatFilter()

    async def complain(error: Exception) -> None:
        """Every attempt to reconnect ends here while the broker is away."""
        text = str(error) or type(error).__name__
        if not repetitions.is_one(text, text, time.monotonic()):
            log.warning("nats", extra={"fields": {"error": text}})

    return await tidemark.nats.connect(
        list(config.servers), directory=config.directory, name=OWN_LEAF, error_cb=complain
    )


@asynccontextmanager
async def _injecting(
    config: InjectorConfig | None, kept: Backends, cluster: Cluster | None, clock: Clock
) -> AsyncIterator[dict[str, Task]]:
    """The injector, where there is one, with what has to run beside it. Every replica serves it, whoever leads."""
    if config is None:
        yield {}
        return
    certificate = ServerCertificate(kept.control, config.names)
    await certificate.renew(int(clock()))
    tasks: dict[str, Task] = {
        "injector certificate": partial(certificate.keep_renewed, clock, _certificate_not_renewed)
    }
    if cluster is not None and config.webhook is not None:
        ca = to_pem([kept.control.certificate])
        tasks["ca bundle"] = partial(keep_ca_bundle, cluster.client, config.webhook, ca, _ca_bundle_not_kept())
    with closing(await listen(config.listen.host, config.listen.port, "injector.listen")) as listening:
        runner, answer = await start(webhook.application(config.sidecar))
        tasks["injector"] = partial(
            connection_limit.serve, listening, answer, certificate.context, _turned_away("injector")
        )
        try:
            yield tasks
        finally:
            await runner.cleanup()


def _turned_away(where: str) -> Callable[[str], None]:
    repetitions = RepeatFilter()

    def complain(address: str) -> None:
        if not repetitions.is_one(address, "", time.monotonic()):
            log.warning("connection_turned_away", extra={"fields": {"server": where, "address": address}})

    return complain


def _ca_bundle_not_kept() -> Callable[[KubernetesError], None]:
    repetitions = RepeatFilter()

    def complain(error: KubernetesError) -> None:
        if not repetitions.is_one("", str(error), time.monotonic()):
            log.error("ca_bundle_not_kept", extra={"fields": {"error": str(error)}})

    return complain


def _tokens_not_read() -> Callable[[KeystoreError], None]:
    repetitions = RepeatFilter()

    def complain(error: KeystoreError) -> None:
        if not repetitions.is_one("", str(error), time.monotonic()):
            log.error("tokens_not_read", extra={"fields": {"error": str(error)}})

    return complain


def _certificate_not_renewed(error: KeystoreError) -> None:
    log.error("api_certificate_not_renewed", extra={"fields": {"error": str(error)}})


def _leaf_store(place: Path | SecretName, cluster: Cluster | None) -> LeafStore:
    if isinstance(place, Path):
        return DirectoryLeafStore(place)
    if cluster is None:
        raise ValueError(f"leaf in secret {place}: expected [kubernetes] in the configuration")
    return cluster.leaf_store(place)


def _leaf_stores(config: AuthorityConfig, cluster: Cluster | None) -> list[tuple[LeafSubject, LeafStore]]:
    stores: list[tuple[LeafSubject, LeafStore]] = [
        (LeafSubject(leaf.name, leaf.name, leaf.dns, leaf.ip), _leaf_store(leaf.place, cluster))
        for leaf in config.leaves
    ]
    if config.jetstream:
        own = LeafSubject(OWN_LEAF, OWN_LEAF, (OWN_LEAF,), ())
        stores.append((own, DirectoryLeafStore(config.jetstream.directory)))
    return stores
