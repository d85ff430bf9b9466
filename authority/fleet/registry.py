"""The fleet's state: expected agents, their last receipts, and when their first proofs arrived."""

from collections.abc import Sequence

from authority.fleet.distrust_times import DistrustTimes
from authority.fleet.members import Members, PodIdentity
from authority.fleet.proof_times import ProofTimes
from authority.fleet.view import ExpectedAgent, FleetView, ReceiptBook, ReceivedReceipt, freshness_seconds, view
from authority.journal.history import History
from tidemark.epoch import EpochClock
from tidemark.receipt import Receipt


class FleetRegistry:
    """The fleet's members with their receipts."""

    def __init__(self, members: Members, clock: EpochClock) -> None:
        self.members = members
        self._clock = clock
        self._pruned_at = 0
        self._receipts = ReceiptBook()
        self.proof_times = ProofTimes()
        self.distrust_times = DistrustTimes()

    def fleet(self, history: History, now: int) -> FleetView:
        """The agents at ``now``, by what they proved of the newest statement."""
        newest = history.newest.digest if history.newest else ""
        expected = self.members.expected()
        if expected is not None:
            self._prune(expected, now)
        return view(expected, self._receipts, newest, self._clock, now)

    def _prune(self, expected: Sequence[ExpectedAgent], now: int) -> None:
        """Forget agents that have gone, as pods do; at most once within the time that a receipt counts."""
        fresh_for = freshness_seconds(self._clock)
        if now >= self._pruned_at + fresh_for:
            self._pruned_at = now
            self._receipts.prune({agent.name for agent in expected}, now - fresh_for)

    def receive(self, receipt: Receipt, sender: PodIdentity | None, history: History, exact: float) -> bool:
        """Record a receipt that arrived at ``exact`` (Unix seconds with fractions).

        Returns whether the receipt was newer than the last one of its agent. Raises UnexpectedAgent.
        """
        receipt = self.members.admit(receipt, sender)
        if not self._receipts.accept(ReceivedReceipt(receipt, int(exact), exact)):
            return False
        self.proof_times.follow(history.statements)
        self.proof_times.received(receipt, exact)
        self.distrust_times.received(receipt, history, exact)
        return True
