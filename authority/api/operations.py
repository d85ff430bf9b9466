"""Carries out what comes in through the API: receipts of agents, and requests of operators."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from authority.api import views
from authority.api.views import Answer
from authority.controllers.leaf_requests import LeafOrder
from authority.controllers.rotation import RotationController
from authority.fleet.members import PodIdentity
from authority.fleet.registry import FleetRegistry
from authority.rotation.operator_requests import WithdrawalRequest
from tidemark.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Operations:
    """Passes requests to the rotation controller, and returns their results as JSON."""

    rotation: RotationController
    registry: FleetRegistry
    clock: Callable[[], float]
    """Returns Unix seconds with fractions."""

    def receive(self, receipt: Receipt, sender: PodIdentity | None = None) -> int:
        """Record a receipt; return the newest sequence.

        ``sender`` is the pod that the receipt's token shows, None where agents share one token. Raises UnexpectedAgent.
        """
        history = self.rotation.history
        if self.registry.receive(receipt, sender, history, self.clock()):
            self.rotation.wake()
        return history.newest.statement.sequence if history.newest else 0

    async def rotate(self, who: str, reason: str) -> Answer:
        """Force a rotation; return the new statement. Raises RotationRefused, TimeoutError."""
        statement = await self.rotation.commands.rotate(who, reason)
        return {"sequence": statement.sequence, "epoch": statement.epoch, "ca": statement.anchors[0].sha256}

    def preview(self, wanted: WithdrawalRequest) -> Answer:
        """Say what a withdrawal would do, and do nothing. Raises RotationRefused."""
        return views.preview(self.rotation.preview(wanted), wanted)

    async def withdraw(self, who: str, reason: str, wanted: WithdrawalRequest) -> Answer:
        """Record a withdrawal; return what it does. Raises RotationRefused, TimeoutError."""
        answer = self.preview(wanted)
        # The CA by its fingerprint: "the newest" may be another one by the time that the request's turn comes.
        await self.rotation.commands.withdraw(who, reason, replace(wanted, ca=answer["ca"]))
        return answer

    async def override(self, who: str, reason: str) -> Answer:
        """Open the gate of the newest CA that waits; return that CA. Raises RotationRefused, TimeoutError."""
        ca = await self.rotation.commands.override(who, reason)
        return {"ca": ca.sha256, "epoch": ca.epoch}

    async def leaf(self, order: LeafOrder) -> Answer:
        """Sign a leaf; return it with its key. Raises RotationRefused, TimeoutError."""
        return views.manual_leaf(await self.rotation.commands.issue_leaf(order))
