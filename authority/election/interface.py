"""Who leads among the replicas of one authority: at most one at a time signs, publishes and deletes.

An election makes two leaders rare, the fences make them harmless: every write is a compare-and-set on the journal's
head or the target's own version (docs/architecture.md, invariant 8).
"""

from dataclasses import dataclass
from typing import Protocol

from authority.errors import StateUnusable

LEASE_SECONDS = 9
"""How long a leader is waited for that no longer shows that it lives: with it a takeover takes less than 15 s."""


class ElectionError(StateUnusable):
    """The election cannot be held; the message names what it is held with, and what to do."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One of them: ``name`` is unique for the life of its process, ``url`` where its API answers the others."""

    name: str
    url: str


class Election(Protocol):
    """``run`` campaigns and renews until it is cancelled (then it resigns); the rest only looks at what it found.

    A leader that could not renew for as long as others wait before they take over has ``lost``, whatever it may have
    been doing meanwhile: a process that was paused stops by itself before it acts again.
    """

    me: Replica

    @property
    def leader(self) -> Replica | None:
        """Who leads, as last seen; None where nobody is known to."""

    @property
    def leads(self) -> bool:
        """Whether ``me`` leads at this instant: no longer once its lease has run out, whoever has noticed."""

    async def run(self) -> None:
        """Campaign until cancelled. Temporary failures are retried; raises ElectionError for what will not pass."""

    async def won(self) -> None:
        """Return once ``me`` leads."""

    async def lost(self) -> None:
        """Return once ``me`` does not lead (any more)."""
