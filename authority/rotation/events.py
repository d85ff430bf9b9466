"""The events that the authority's controllers report, for the event log, the metrics and the API; pure.

Every event carries ``at`` (Unix seconds by the authority's clock). Durations are seconds with fractions, measured by a
clock that never jumps. CAs are named by epoch and fingerprint, statements by sequence and digest.
"""

from collections.abc import Callable
from dataclasses import dataclass

from authority.journal.record_types import Opening
from authority.publishers.interface import PublishOutcome
from authority.rotation.actions import Step
from authority.rotation.gate import ClosedReason
from authority.rotation.leaf_renewal import LeafCause
from authority.rotation.withdrawal import WithdrawalStage
from tidemark.bundle import Cause


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement with a new CA was committed; ``seconds`` from issuing the CA to the journal."""

    at: int
    sequence: int
    digest: str
    cause: Cause
    epoch: int
    ca: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Published:
    """A publisher's targets show the statement. ``UNCHANGED`` is reported once for each statement."""

    at: int
    target: str
    sequence: int
    outcome: PublishOutcome
    seconds: float


@dataclass(frozen=True, slots=True)
class HigherStatementFound:
    """Targets show a validly signed higher statement than ours: the journal lost records, or another authority writes.

    The higher statement is not overwritten: the authority adopts it and makes statements above it.
    """

    at: int
    target: str
    sequence: int
    newer: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FleetProven:
    """Every required agent has proven the newest statement; ``seconds`` from its commit to the last receipt."""

    at: int
    sequence: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GateHeld:
    """The gate is closed past its time: ``waiting`` names the agents; the last resort activates a CA at ``until``.

    Reported when it begins, whenever ``closed`` (why) changes, and every heartbeat where ``waiting`` has changed.
    """

    at: int
    epoch: int
    ca: str
    since: int
    until: int
    closed: ClosedReason
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Activated:
    """A CA signs from here on; ``unproven`` names the agents left behind, ``skipped`` CAs that will never sign."""

    at: int
    epoch: int
    ca: str
    opening: Opening
    unproven: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GateOverridden:
    """An operator opened the gate of one CA."""

    at: int
    epoch: int
    ca: str
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class WithdrawalRequested:
    """A CA is to be taken out of use. ``who`` asked for the withdrawal ("" where the authority rolls back unasked)."""

    at: int
    epoch: int
    ca: str
    cause: Cause
    urgent: bool
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class WithdrawalStageReached:
    """How far a withdrawal has come; reported when ``stage`` changes, and every heartbeat where ``waiting`` has.

    ``replacement`` is a fingerprint, "" before the CA is made. The stage ends at ``until``, waited for or not.
    """

    at: int
    epoch: int
    ca: str
    stage: WithdrawalStage
    replacement: str
    waiting: tuple[str, ...]
    until: int | None


@dataclass(frozen=True, slots=True)
class AnchorsRemoved:
    """A statement without these withdrawn CAs was committed."""

    at: int
    sequence: int
    digest: str
    cause: Cause
    cas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retired:
    """CAs and their keys were deleted: long expired, or made and never published (``orphans``).

    ``intents`` are the CAs' names in the issuer; the field is part of the API and the log.
    """

    at: int
    intents: tuple[str, ...]
    orphans: bool


@dataclass(frozen=True, slots=True)
class LeafWritten:
    """A workload's leaf was issued and written; ``ca`` is the fingerprint of the CA that signed it."""

    at: int
    workload: str
    target: str
    cause: LeafCause
    ca: str
    not_after: int


@dataclass(frozen=True, slots=True)
class LeafIssued:
    """An operator received a leaf that no target shows.

    Nine fields, because the event is all that an auditor sees of the leaf.
    """

    at: int
    epoch: int
    ca: str

    name: str
    """The common name."""

    names: tuple[str, ...]
    """The names that peers check."""

    serial: str
    """In hex."""

    not_after: int
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class CertificateMarked:
    """cert-manager is to issue ``certificate`` (``namespace/name``) anew: its leaf is from before ``before``."""

    at: int
    certificate: str
    before: int


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed and is tried again in ``retry_in`` seconds; ``target`` names its object ("" for none)."""

    at: int
    step: Step
    target: str
    error: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class AppendConflict:
    """Another process appended to the journal first; the record that was to be written is dropped, and decided anew."""

    at: int
    step: Step
    error: str


@dataclass(frozen=True, slots=True)
class Leading:
    """This replica leads from here on; no other replica signs, publishes or deletes."""

    at: int
    replica: str


@dataclass(frozen=True, slots=True)
class Following:
    """This replica leads no longer; ``leader`` names the replica that does, "" where none is known."""

    at: int
    replica: str
    leader: str


Event = (
    Prepared
    | Published
    | HigherStatementFound
    | FleetProven
    | GateHeld
    | Activated
    | GateOverridden
    | WithdrawalRequested
    | WithdrawalStageReached
    | AnchorsRemoved
    | Retired
    | LeafWritten
    | LeafIssued
    | CertificateMarked
    | StepFailed
    | AppendConflict
    | Leading
    | Following
)

Observer = Callable[[Event], None]
"""Called with each event as it happens; must not raise and must not wait."""
