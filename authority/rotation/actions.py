"""The actions that the plan can ask for; pure."""

from dataclasses import dataclass
from enum import StrEnum

from authority.journal.history import EpochCa
from authority.journal.record_types import Entry, Opening
from authority.rotation.gate import ClosedReason
from tidemark.bundle import Cause


class Step(StrEnum):
    """Which step of a controller an event is about. The values are labels of metrics and fields of the API."""

    JOURNAL = "journal"
    """Read the journal."""

    RESUME = "resume"
    """At the start: read what the targets show."""

    INSPECT = "inspect"
    """Read what the issuer holds: whether a CA can sign, what a crash left behind."""

    PREPARE = "prepare"
    """Issue a CA; compose, sign, verify and commit the statement that brings it."""

    WITHDRAW = "withdraw"
    """Record that a CA is to be taken out of use."""

    REMOVE_ANCHORS = "leave_out"
    """Commit a statement without the withdrawn CA."""

    PUBLISH = "publish"
    """Write the newest statement to the targets."""

    ACTIVATE = "activate"
    """Record that another CA signs."""

    SWITCH = "switch"
    """Have the issuer sign with the activated CA."""

    RETIRE = "retire"
    """Delete CAs that are needed no more."""

    COMPACT = "fold"
    """Remove records that are needed no more from the journal."""

    LEAF = "leaf"
    """Renew a workload's leaf."""

    REISSUE = "reissue"
    """Have cert-manager issue a certificate anew."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the CA of ``epoch`` under the name ``ca_id`` and commit a statement that contains it."""

    epoch: int
    cause: Cause
    ca_id: str
    step: Step = Step.PREPARE


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Record that ``ca`` is rolled back, unasked; ``reason`` says why."""

    ca: EpochCa
    reason: str
    step: Step = Step.WITHDRAW


@dataclass(frozen=True, slots=True)
class RemoveAnchors:
    """Commit a statement without withdrawn CAs."""

    cas: tuple[EpochCa, ...]
    """The withdrawn CAs."""

    cause: Cause

    added: Prepare | None
    """The new CA that the statement brings where an urgent withdrawal needs it."""

    due: int
    """Unix seconds; when the statement after this one is due."""

    step: Step = Step.REMOVE_ANCHORS


@dataclass(frozen=True, slots=True)
class Activate:
    """Record that ``ca`` signs from here on."""

    ca: EpochCa

    opening: Opening
    """Why the CA is activated."""

    unproven: tuple[str, ...]
    """Names of the agents that have not proven the CA."""

    skipped: tuple[str, ...]
    """Fingerprints of older CAs that never will sign."""

    step: Step = Step.ACTIVATE


@dataclass(frozen=True, slots=True)
class SwitchSigner:
    """Tell the issuer to sign with ``ca``, which the journal says is activated."""

    ca: EpochCa
    step: Step = Step.SWITCH


@dataclass(frozen=True, slots=True)
class Retire:
    """Delete CAs and their keys."""

    ca_ids: tuple[str, ...]
    """The CAs' names in the issuer."""

    orphans: bool
    """True: the CAs were never published; False: they expired an epoch ago or more."""

    step: Step = Step.RETIRE


@dataclass(frozen=True, slots=True)
class Compact:
    """Replace the journal's records up to position ``through`` by those of ``keep``."""

    keep: tuple[Entry, ...]
    through: int
    step: Step = Step.COMPACT


@dataclass(frozen=True, slots=True)
class Hold:
    """A CA that should be signing and whose gate is closed."""

    ca: EpochCa

    since: int
    """Unix seconds; since when the CA should be signing."""

    until: int
    """Unix seconds; when the last resort activates a CA."""

    closed: ClosedReason
    """Why the gate is closed."""

    waiting: tuple[str, ...]
    """Names of the agents that are waited for."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before ``until`` (Unix seconds), unless a receipt, a request or the list of agents changes."""

    until: int

    hold: Hold | None
    """What keeps a CA from being activated in time, if anything does."""


Work = Prepare | Withdraw | RemoveAnchors | Activate | SwitchSigner | Retire | Compact

Action = Work | Wait
