"""What the steps after installing say to each other about a workload: expected, told, shown, or why not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography import x509

from tidemark.certificates import Leaf
from tidemark.receipt import Level


class WorkloadAbsent(Exception):
    """The workload cannot be reached now: not started, restarting, another process in its place, or not ours to signal.

    It says nothing about the set, so nothing is reverted for it; the agent waits and looks again.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotProven(Exception):
    """The workload was told and does not show the set; ``reason`` is one word for metrics and receipts."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a workload that uses a set must show.

    ``subjects`` are the names of the bundle's CAs; ``leaf`` is None where the agent does not manage it;
    ``installed_at`` is when the set came in place, in seconds of the boot clock (which process start times count by);
    ``identities`` are directories of sets that the workload may know by now, what to present and trust towards it;
    ``presented`` is a leaf that it trusts before it reloads as well as after (None: ``leaf``).
    """

    sequence: int
    ca_sha256: str
    subjects: tuple[x509.Name, ...]
    leaf: Leaf | None
    directory: Path
    installed_at: float
    identities: tuple[Path, ...] = ()
    presented: Leaf | None = None


@dataclass(frozen=True, slots=True)
class ReloadAnswer:
    """A workload was told to reload; ``answer`` is what an HTTP workload said."""

    answer: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a workload showed before it was told: the load time of its configuration (None: it shows none)."""

    load_time: str | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """What a workload has shown, and the most that it can show as it is configured."""

    level: Level
    allowed: Level
    detail: str = ""


class Reloader(Protocol):
    """Tells one workload to reload. Keeps nothing, one call at a time; the cycle repeats it."""

    async def started_after(self, instant: float) -> bool:
        """Whether the workload started after ``instant`` of the boot clock, and so loaded what lay there then.

        False where that cannot be known. Raises WorkloadAbsent.
        """

    async def reload(self, expected: Expectation, within: float) -> ReloadAnswer:
        """Tell the workload.

        Raises:
            WorkloadAbsent: it is not there to be told.
            NotProven: it refused, or did not answer within ``within`` seconds.
        """


class Prover(Protocol):
    """Finds out what one workload uses. Changes nothing, may be repeated; the cycle repeats it."""

    async def baseline(self, within: float) -> Baseline:
        """Look before the workload is told; raises WorkloadAbsent."""

    async def prove(
        self, expected: Expectation, reloaded: ReloadAnswer, baseline: Baseline | None, within: float
    ) -> Proof:
        """Wait up to ``within`` seconds until the workload shows the set; without a baseline by CA list and leaf alone.

        Raises:
            WorkloadAbsent: it cannot be asked.
            NotProven: it shows something else; the message says what was expected and found.
        """
