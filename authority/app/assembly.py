"""Joins the controllers of an authority with what they work on: backends, publishers, leaf stores and the fleet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from authority.api.operations import Operations
from authority.api.queries import Queries
from authority.app.backends import Backends
from authority.app.cluster import Cluster
from authority.app.failure_log import log_failure
from authority.config.kubernetes import SecretName
from authority.config.load import AuthorityConfig
from authority.controllers.cert_manager import CertManagerController
from authority.controllers.connection_monitor import ConnectionMonitor
from authority.controllers.context import ControllerContext
from authority.controllers.leaves import LeafController
from authority.controllers.rotation import RotationController, RotationDependencies
from authority.election.interface import Election
from authority.fleet.members import ConfiguredMembers, Members
from authority.fleet.registry import FleetRegistry
from authority.fleet.view import ExpectedAgent
from authority.issuer.serialized import SerializedIssuer
from authority.journal.store import JournalStore
from authority.observability.event_log import EventLog
from authority.observability.metrics import AuthorityMetrics
from authority.observability.proof_recorder import ProofRecorder
from authority.pki.names import OWN_LEAF
from authority.publishers.interface import Publisher
from authority.publishers.leaf_directory import DirectoryLeafStore
from authority.publishers.leaf_store import LeafStore
from authority.rotation.events import Event
from authority.rotation.leaf_renewal import LeafSubject
from authority.support.tasks import Task
from tidemark.trust import Trust


@dataclass(frozen=True, slots=True)
class AuthorityParts:
    """The opened parts that an authority is assembled from."""

    config: AuthorityConfig
    trust: Trust
    backends: Backends
    election: Election
    cluster: Cluster | None
    clock: Callable[[], float]
    """Returns Unix seconds with fractions."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """The controllers of an authority, and the two sides of its API."""

    context: ControllerContext
    queries: Queries
    operations: Operations
    members: Members
    controllers: Mapping[str, Task]
    """The loops that run while this replica leads, and at no other time."""


def assemble(parts: AuthorityParts, publishers: Sequence[Publisher]) -> Assembly:
    """Make every controller and join them; nothing runs yet."""
    config, clock = parts.config, parts.clock
    registry = FleetRegistry(_members(parts), config.timing.clock)
    event_log, metrics = EventLog(), AuthorityMetrics()
    context = _context(parts, registry, event_log, metrics)
    issuer = SerializedIssuer(parts.backends.issuer)
    rotation = RotationController(
        context,
        RotationDependencies(
            issuer=issuer,
            signer=parts.backends.signer,
            publishers=publishers,
            include_root=config.include_root,
            fleet=registry.fleet,
            rollback_above=config.withdrawal.rollback_above,
            on_publish=lambda digest: registry.proof_times.publishing(digest, clock()),
        ),
    )
    registry.members.subscribe(rotation.wake)  # a pod that comes or goes may open the gate
    leaves = LeafController(context, issuer, _leaf_stores(config, parts.cluster))
    cert_manager = CertManagerController(
        context, parts.cluster.cert_manager() if parts.cluster else None, lambda: rotation.active
    )
    connections = ConnectionMonitor(context, config.withdrawal.monitors, _log_monitor_failure)
    return Assembly(
        context,
        Queries(context, rotation, leaves, connections, registry, event_log, metrics, parts.election),
        Operations(rotation, registry, clock),
        registry.members,
        {"rotation": rotation.run, "leaves": leaves.run, "reissues": cert_manager.run, "connections": connections.run},
    )


def _context(
    parts: AuthorityParts, registry: FleetRegistry, event_log: EventLog, metrics: AuthorityMetrics
) -> ControllerContext:
    journal = JournalStore(parts.backends.journal, lambda: parts.election.leads)
    recorder = ProofRecorder(registry, lambda: journal.history.statements, parts.clock)

    def observe(event: Event) -> None:
        recorder.observe(event)
        event_log.observe(event)
        metrics.observe(event)

    references = dict(parts.backends.references)
    if parts.cluster is not None:
        references["the API server"] = parts.cluster.client
    return ControllerContext(
        journal, parts.trust, parts.config.timing, lambda: int(parts.clock()), observe, references=references
    )


def _members(parts: AuthorityParts) -> Members:
    """The fleet's members: pods, or the agents that the configuration lists."""
    pods = parts.cluster.members() if parts.cluster else None
    if pods is not None:
        return pods
    now, agents = int(parts.clock()), parts.config.agents
    return ConfiguredMembers(ExpectedAgent(one.name, one.pod_class, uid="", ready=True, since=now) for one in agents)


def _leaf_stores(config: AuthorityConfig, cluster: Cluster | None) -> list[tuple[LeafSubject, LeafStore]]:
    """Every configured workload with the store of its leaf, and the authority's own leaf for JetStream."""
    stores: list[tuple[LeafSubject, LeafStore]] = [
        (LeafSubject(leaf.name, leaf.name, leaf.dns, leaf.ip), _leaf_store(leaf.place, cluster))
        for leaf in config.leaves
    ]
    if config.jetstream:
        own = LeafSubject(OWN_LEAF, OWN_LEAF, (OWN_LEAF,), ())
        stores.append((own, DirectoryLeafStore(config.jetstream.directory)))
    return stores


def _leaf_store(place: Path | SecretName, cluster: Cluster | None) -> LeafStore:
    if isinstance(place, Path):
        return DirectoryLeafStore(place)
    if cluster is None:
        raise ValueError(f"leaf in secret {place}: expected [kubernetes] in the configuration")
    return cluster.leaf_store(place)


def _log_monitor_failure(server: str, error: str) -> None:
    log_failure("nats_monitor_failed", error, server=server)
