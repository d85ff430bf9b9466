"""The port of workloads: a reloader makes a workload load a set, a prover finds out which set it uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography import x509

from tidemark.certificates import Leaf
from tidemark.receipt import Level


class WorkloadAbsent(Exception):
    """The workload cannot be reached: it is not running, another process has its place, or the agent may not reload it.

    That is no fault of the set, so no set is reverted for it; the agent waits and tries again. ``reason`` is one word
    for metrics and receipts.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotProven(Exception):
    """The workload was asked to reload and does not use the set; ``reason`` is one word for metrics and receipts."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a workload that uses a set shows."""

    sequence: int
    """Sequence of the set's statement."""
    ca_sha256: str
    """SHA-256 of the bundle, in hex."""
    subjects: tuple[x509.Name, ...]
    """Names of the bundle's CAs, which a server asks its clients for."""
    leaf: Leaf | None
    """The leaf that the workload serves; None where the agent does not manage it."""
    directory: Path
    """Output directory that the workload reads."""
    installed_at: float
    """When the set was installed, in seconds of the boot clock (which start times of processes count by)."""
    identities: tuple[Path, ...] = ()
    """Directories of sets that the workload may use at present, to present and trust; empty: ``directory``."""
    presented: Leaf | None = None
    """A leaf that the workload trusts before it reloads as well as after; None: ``leaf``."""


@dataclass(frozen=True, slots=True)
class ReloadAnswer:
    """A workload took the request to reload."""

    answer: Mapping[str, object] = field(default_factory=dict)
    """The JSON object with which an HTTP workload answered; empty for others."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a workload showed before it was asked to reload."""

    load_time: str | None = None
    """When it loaded its configuration, as it says itself; None where it does not say."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a workload has shown."""

    level: Level
    """The level that was reached."""
    allowed: Level
    """The highest level that the workload can reach as it is configured."""
    detail: str = ""
    """Why the level is not higher, where that needs saying."""


class Reloader(Protocol):
    """Makes one workload reload. Keeps no state; one call at a time; the caller repeats calls."""

    async def started_after(self, instant: float) -> bool:
        """Whether the workload started after ``instant`` of the boot clock, and so has loaded what was installed then.

        False where that cannot be known. Raises WorkloadAbsent.
        """

    async def reload(self, expected: Expectation, within: float) -> ReloadAnswer:
        """Make the workload reload.

        Raises:
            WorkloadAbsent: the workload cannot be reached.
            NotProven: the workload refused, or did not answer within ``within`` seconds.
        """


class Prover(Protocol):
    """Finds out which set one workload uses. Changes nothing; the caller repeats calls."""

    async def baseline(self, within: float) -> Baseline:
        """What the workload shows before it is asked to reload; raises WorkloadAbsent."""

    async def prove(
        self, expected: Expectation, reloaded: ReloadAnswer, baseline: Baseline | None, within: float
    ) -> Proof:
        """Wait up to ``within`` seconds until the workload shows the set; without a baseline by CA list and leaf alone.

        Raises:
            WorkloadAbsent: the workload cannot be asked.
            NotProven: the workload shows something else; the message says what was expected and found.
        """
