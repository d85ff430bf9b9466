"""Which agents belong to the fleet: the port, and the agents that the configuration lists."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from authority.fleet.view import ExpectedAgent
from tidemark.receipt import Receipt


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that a receipt came from, as the token shows that came with it."""

    namespace: str
    pod: str
    uid: str


class UnexpectedAgent(Exception):
    """A receipt came from an agent that nobody expects; the message names it and says what to do."""


class Members(Protocol):
    """Who belongs to the fleet."""

    def expected(self) -> Sequence[ExpectedAgent] | None:
        """The agents that should be there; None where nobody can say."""

    def admit(self, receipt: Receipt, sender: PodIdentity | None) -> Receipt:
        """The receipt under the name that its agent has in the fleet; ``sender`` where a token showed who sent it.

        Raises:
            UnexpectedAgent: nobody expects it; what is remembered is bounded by who is expected.
        """


class ConfiguredMembers:
    """The fleet without Kubernetes: the agents that the configuration names."""

    def __init__(self, expected: Iterable[ExpectedAgent]) -> None:
        self._expected = {agent.name: agent for agent in expected}

    def expected(self) -> tuple[ExpectedAgent, ...]:
        """All of them, always."""
        return tuple(self._expected.values())

    def admit(self, receipt: Receipt, sender: PodIdentity | None) -> Receipt:
        """The receipt as it is. Raises UnexpectedAgent."""
        if receipt.pod not in self._expected:
            raise UnexpectedAgent(
                f"receipt of {receipt.pod!r}: expected an agent that the configuration names; add it to [[agents]]"
            )
        return receipt
