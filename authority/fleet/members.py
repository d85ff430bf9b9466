"""The members of the fleet: the port, and the agents that the configuration lists."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from authority.fleet.view import ExpectedAgent
from tidemark.receipt import Receipt


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that sent a receipt, as shown by the token that came with the receipt."""

    namespace: str
    pod: str
    uid: str


class UnexpectedAgent(Exception):
    """A receipt came from an agent that is not expected; the message names the agent and says what to do."""


class Members(Protocol):
    """The agents that belong to the fleet."""

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Have ``on_change`` called whenever agents come, change or go. Before the members are watched, and once."""

    def expected(self) -> Sequence[ExpectedAgent] | None:
        """The agents that should be there; None while the list is not known."""

    def admit(self, receipt: Receipt, sender: PodIdentity | None) -> Receipt:
        """The receipt under the name that its agent has in the fleet; ``sender`` is None where no token shows it.

        Raises:
            UnexpectedAgent: the agent is not expected. So memory is bounded by the number of expected agents.
        """


class ConfiguredMembers:
    """The fleet without Kubernetes: the agents that the configuration names."""

    def __init__(self, expected: Iterable[ExpectedAgent]) -> None:
        self._expected = {agent.name: agent for agent in expected}

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Does nothing: the configuration is read once."""

    def expected(self) -> tuple[ExpectedAgent, ...]:
        """Every configured agent."""
        return tuple(self._expected.values())

    def admit(self, receipt: Receipt, sender: PodIdentity | None) -> Receipt:
        """The receipt, unchanged. Raises UnexpectedAgent."""
        if receipt.pod not in self._expected:
            raise UnexpectedAgent(
                f"receipt of {receipt.pod!r}: expected an agent that the configuration names; add it to [[agents]]"
            )
        return receipt
