"""The port that says which replica of an authority leads: at most one at a time signs, publishes and deletes.

An election makes two leaders rare, the fences make them harmless: every write is a compare-and-set on the journal's
head or the target's own version (docs/architecture.md, invariant 8).
"""

import time
from dataclasses import dataclass
from typing import Protocol

from authority.errors import StateUnusable

LEASE_SECONDS = 9
"""How long others wait for a leader that no longer shows that it lives: a takeover takes less than 15 s."""


def boottime() -> float:
    """Seconds of a clock that never jumps and also counts while the machine sleeps (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ElectionError(StateUnusable):
    """The election cannot be held; the message names the directory or Lease, and what to do."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of the authority."""

    name: str
    """Unique for the life of the process."""
    url: str
    """Where its API answers the other replicas."""


class Election(Protocol):
    """``run`` campaigns and renews until it is cancelled, and then resigns; the rest reports what ``run`` found.

    A leader that could not renew stops before others may take over, also where its process was paused: it checks
    ``leads`` before it acts again.
    """

    me: Replica

    @property
    def leader(self) -> Replica | None:
        """The leader, as last seen; None where none is known."""

    @property
    def leads(self) -> bool:
        """Whether ``me`` leads at this instant: False from the moment that the lease has run out, without a notice."""

    async def run(self) -> None:
        """Campaign until cancelled. Temporary failures are retried; raises ElectionError for a permanent one."""

    async def won(self) -> None:
        """Return once ``me`` leads."""

    async def lost(self) -> None:
        """Return once ``me`` does not lead (any more)."""
