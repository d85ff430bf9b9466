"""Where questions are answered and receipts and requests are taken, whatever they came in by."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from authority.api import views
from authority.api.views import Answer, Situation
from authority.controllers.cert_manager import CertManagerController
from authority.controllers.connection_monitor import ConnectionMonitor
from authority.controllers.context import ControllerContext
from authority.controllers.leaf_requests import LeafOrder
from authority.controllers.leaves import LeafController
from authority.controllers.rotation import RotationController
from authority.election.interface import Election
from authority.fleet.members import PodIdentity
from authority.fleet.registry import FleetRegistry
from authority.observability.event_log import EventLog
from authority.observability.metrics import AuthorityMetrics
from authority.rotation.operator_requests import WithdrawalRequest
from tidemark.bundle import Bundle
from tidemark.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Operations:
    """Implements ``Operations``. ``exact`` returns Unix seconds with fractions."""

    here: ControllerContext
    rotation: RotationController
    leaves: LeafController
    reissues: CertManagerController
    connections: ConnectionMonitor
    roster: FleetRegistry
    chronicle: EventLog
    meters: AuthorityMetrics
    election: Election
    exact: Callable[[], float]

    def unready(self) -> str:
        """What keeps the authority from its work, "" where nothing does."""
        signing = self.rotation.history.signing
        if signing is None:
            return "expected a CA that signs, found none yet"
        if signing.is_expired(self.here.now()):
            return f"expected a CA that signs, found that of epoch {signing.epoch} expired"
        return ""

    def metrics(self) -> bytes:
        """The text that Prometheus reads."""
        situation = self._situation()
        leads = self.election.leads
        self.meters.show(situation.history, leads=leads)
        if leads:
            self.meters.show_fleet(situation.fleet, held=situation.hold is not None)
        return self.meters.render()

    def status(self) -> Answer:
        """The deployment in short."""
        situation = self._situation()
        return views.status(situation) | {
            "replica": views.replica(self.election),
            "withdrawals": [views.in_short(each) for each in self.withdrawals()["withdrawals"]],
            "leaves": views.leaves(self.leaves.states, situation.history),
            "publishers": views.publishers(self.rotation.targets),
            "failures": views.failures(self.rotation.failures),
            "events": self.chronicle.last(),
        }

    def fleet(self) -> Iterator[bytes]:
        """Every agent with its last receipt, as JSON in pieces."""
        return views.fleet(self._situation())

    def withdrawals(self) -> Answer:
        """Every withdrawal of a CA that has not expired: each agent's time to distrust it, and who stays connected."""
        look = self.connections.last
        return {
            "withdrawals": views.withdrawals(self.rotation.progress(), self.roster.distrust, look),
            "connections": look and {"at": look.at, "silent": look.silent, "errors": look.errors},
        }

    def bundles(self) -> Answer:
        """Every statement that the journal holds."""
        return views.bundles(self.rotation.history, self.roster.ledger)

    def bundle(self, sequence: int) -> Bundle | None:
        """The bundle of this number, None where the journal does not hold it."""
        statements = self.rotation.history.statements
        return next((signed.bundle for signed in statements if signed.statement.sequence == sequence), None)

    def receive(self, receipt: Receipt, sender: PodIdentity | None = None) -> int:
        """Take a receipt; returns the newest sequence. Raises UnexpectedAgent."""
        history = self.rotation.history
        if self.roster.receive(receipt, sender, history, self.exact()):
            self.rotation.wake()
        return history.newest.statement.sequence if history.newest else 0

    async def rotate(self, who: str, reason: str) -> Answer:
        """Force a rotation; returns what was made. Raises RotationRefused, TimeoutError."""
        statement = await self.rotation.rotate(who, reason)
        return {"sequence": statement.sequence, "epoch": statement.epoch, "ca": statement.anchors[0].sha256}

    def prospect(self, wanted: WithdrawalRequest) -> Answer:
        """What a withdrawal would do. Raises RotationRefused."""
        return views.prospect(self.rotation.prospect(wanted), wanted)

    async def withdraw(self, who: str, reason: str, wanted: WithdrawalRequest) -> Answer:
        """Record a withdrawal; returns what it does. Raises RotationRefused, TimeoutError."""
        answer = self.prospect(wanted)
        await self.rotation.withdraw(who, reason, replace(wanted, ca=answer["ca"]))
        return answer

    async def override(self, who: str, reason: str) -> Answer:
        """Open the gate of the newest CA that waits; returns that CA. Raises RotationRefused, TimeoutError."""
        ca = await self.rotation.override(who, reason)
        return {"ca": ca.sha256, "epoch": ca.epoch}

    async def leaf(self, order: LeafOrder) -> Answer:
        """Sign a leaf; returns it with its key. Raises RotationRefused, TimeoutError."""
        return views.one_off(await self.rotation.issue_leaf(order))

    def _situation(self) -> Situation:
        history, now = self.rotation.history, self.here.now()
        return Situation(
            now=now,
            trust_domain=self.here.trust.trust_domain,
            clock=self.here.clock,
            history=history,
            fleet=self.roster.fleet(history, now),
            hold=self.rotation.hold,
        )
