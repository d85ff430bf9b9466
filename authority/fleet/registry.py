"""Who is expected, what they reported, and when the first proofs arrived."""

from collections.abc import Sequence

from authority.fleet.distrust_times import DistrustTimes
from authority.fleet.members import Members, PodIdentity
from authority.fleet.proof_times import ProofTimes
from authority.fleet.view import ExpectedAgent, FleetView, ReceiptBook, ReceivedReceipt, freshness_seconds, view
from authority.journal.history import History
from tidemark.epoch import EpochClock
from tidemark.receipt import Receipt


class FleetRegistry:
    """The fleet: its members, with what they reported."""

    def __init__(self, members: Members, clock: EpochClock) -> None:
        self.members = members
        self._clock = clock
        self._pruned = 0
        self._book = ReceiptBook()
        self.ledger = ProofTimes()
        self.distrust = DistrustTimes()

    def fleet(self, history: History, now: int) -> FleetView:
        """The agents at ``now``, by what they proved of the newest statement."""
        newest = history.newest.digest if history.newest else ""
        expected = self.members.expected()
        if expected is not None:
            self._prune(expected, now)
        return view(expected, self._book, newest, self._clock, now)

    def _prune(self, expected: Sequence[ExpectedAgent], now: int) -> None:
        """Forget now and then who has gone, as pods do."""
        kept = freshness_seconds(self._clock)
        if now >= self._pruned + kept:
            self._pruned = now
            self._book.prune({agent.name for agent in expected}, now - kept)

    def receive(self, receipt: Receipt, sender: PodIdentity | None, history: History, exact: float) -> bool:
        """Take a receipt that arrived at ``exact`` (Unix seconds); whether it was news. Raises UnexpectedAgent."""
        receipt = self.members.admit(receipt, sender)
        if not self._book.accept(ReceivedReceipt(receipt, int(exact), exact)):
            return False
        self.ledger.follow(history.statements)
        self.ledger.received(receipt, exact)
        self.distrust.received(receipt, history, exact)
        return True
