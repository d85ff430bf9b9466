"""Who is expected, what they reported, and when the first proofs arrived."""

from collections.abc import Iterable

from authority.distrust import Distrust
from authority.fleet import Expected, FleetView, ReceiptBook, Received, view
from authority.history import History
from authority.ledger import Ledger
from tidemark.epoch import EpochClock
from tidemark.receipt import Receipt


class UnexpectedAgent(Exception):
    """A receipt came from an agent that nobody expects; the message names it and says what to do."""


class Roster:
    """The fleet without Kubernetes: the agents that the configuration names.

    Receipts of others are refused, so that what is remembered is bounded by who is expected.
    """

    def __init__(self, expected: Iterable[Expected], clock: EpochClock) -> None:
        self._expected = {agent.name: agent for agent in expected}
        self._clock = clock
        self._book = ReceiptBook()
        self.ledger = Ledger()
        self.distrust = Distrust()

    def fleet(self, history: History, now: int) -> FleetView:
        """The agents at ``now``, by what they proved of the newest statement."""
        newest = history.newest.digest if history.newest else ""
        return view(tuple(self._expected.values()), self._book, newest, self._clock, now)

    def receive(self, receipt: Receipt, history: History, exact: float) -> bool:
        """Take a receipt that arrived at ``exact`` (Unix seconds); whether it was news. Raises UnexpectedAgent."""
        if receipt.pod not in self._expected:
            raise UnexpectedAgent(
                f"receipt of {receipt.pod!r}: expected an agent that the configuration names; add it to [[agents]]"
            )
        if not self._book.accept(Received(receipt, int(exact), exact)):
            return False
        self.ledger.follow(history.statements)
        self.ledger.received(receipt, exact)
        self.distrust.received(receipt, history, exact)
        return True
