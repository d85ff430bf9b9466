"""Records in the fleet's registry when statements were committed and withdrawals were asked for and carried out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from authority.fleet.registry import FleetRegistry
from authority.journal.history import SignedStatement
from authority.rotation.events import AnchorsRemoved, Event, Prepared, WithdrawalRequested


@dataclass(frozen=True, slots=True)
class ProofRecorder:
    """The registry measures from these instants to the receipts that prove a statement or distrust a CA."""

    registry: FleetRegistry
    statements: Callable[[], Sequence[SignedStatement]]
    """Returns the statements of the journal, in order."""
    clock: Callable[[], float]
    """Returns Unix seconds with fractions: events have whole seconds, too coarse for a rotation of one second."""

    def observe(self, event: Event) -> None:
        """Record the instant of an event that starts a measurement; other events change nothing."""
        match event:
            case Prepared(digest=digest) | AnchorsRemoved(digest=digest):
                # The record has to exist before it can be marked as ours: receipts alone would create it too late.
                self.registry.proof_times.follow(self.statements())
                self.registry.proof_times.committed(digest)
            case WithdrawalRequested(ca=ca):
                self.registry.distrust_times.withdrawal_requested(ca, self.clock())
        if isinstance(event, AnchorsRemoved):
            for ca in event.cas:
                self.registry.distrust_times.anchor_removed(ca, self.clock())
