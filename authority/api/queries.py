"""Answers the API's questions from the state of the controllers; changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from authority.api import views
from authority.api.views import Answer
from authority.controllers.connection_monitor import ConnectionMonitor
from authority.controllers.context import ControllerContext
from authority.controllers.leaves import LeafController
from authority.controllers.rotation import RotationController
from authority.election.interface import Election
from authority.fleet.registry import FleetRegistry
from authority.observability.event_log import EventLog
from authority.observability.metrics import AuthorityMetrics
from tidemark.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Queries:
    """Reads from every part that knows something: the answers are for people and for Prometheus."""

    context: ControllerContext
    rotation: RotationController
    leaves: LeafController
    connections: ConnectionMonitor
    registry: FleetRegistry
    event_log: EventLog
    authority_metrics: AuthorityMetrics
    election: Election

    def unready(self) -> str:
        """Why the authority is not ready; "" where it is."""
        signing = self.rotation.history.signing
        if signing is None:
            return "expected a CA that signs, found none yet"
        if signing.is_expired(self.context.now()):
            return f"expected a CA that signs, found that of epoch {signing.epoch} expired"
        return ""

    def metrics(self) -> bytes:
        """The text that Prometheus reads."""
        snapshot = self.rotation.snapshot()
        leads = self.election.leads
        self.authority_metrics.set_state(snapshot.history, leads=leads)
        if leads:
            self.authority_metrics.set_fleet(snapshot.fleet, held=self.rotation.hold is not None)
        return self.authority_metrics.render()

    def status(self) -> Answer:
        """``GET /api/v1/status``: the deployment in short."""
        snapshot = self.rotation.snapshot()
        return views.status(snapshot, self.context.trust.trust_domain, self.rotation.hold) | {
            "replica": views.replica(self.election),
            "withdrawals": [views.withdrawal_summary(each) for each in self.withdrawals()["withdrawals"]],
            "leaves": views.leaves(self.leaves.states, snapshot.history),
            "publishers": views.publishers(self.rotation.targets),
            "failures": views.failures(self.rotation.failures),
            "events": self.event_log.last(),
        }

    def fleet(self) -> Iterator[bytes]:
        """``GET /api/v1/fleet``: every agent with its last receipt, as JSON in pieces."""
        return views.fleet(self.rotation.snapshot())

    def withdrawals(self) -> Answer:
        """``GET /api/v1/withdrawals``: every withdrawal of a CA that has not expired yet.

        With each agent's time to distrust the CA, and the clients that are still connected with its certificates.
        """
        scan = self.connections.last
        return {
            "withdrawals": views.withdrawals(self.rotation.withdrawals(), self.registry.distrust_times, scan),
            "connections": scan and {"at": scan.at, "silent": scan.silent, "errors": scan.errors},
        }

    def bundles(self) -> Answer:
        """``GET /api/v1/bundles``: every statement that the journal holds."""
        return views.bundles(self.rotation.history, self.registry.proof_times)

    def bundle(self, sequence: int) -> Bundle | None:
        """The bundle with this sequence; None where the journal does not hold it."""
        statements = self.rotation.history.statements
        return next((signed.bundle for signed in statements if signed.statement.sequence == sequence), None)
