"""The actions that the plan can ask for; pure."""

from dataclasses import dataclass
from enum import StrEnum

from authority.journal.history import EpochCa
from authority.journal.record_types import Entry, Opening
from authority.rotation.gate import ClosedReason
from tidemark.bundle import Cause


class Step(StrEnum):
    """Which step of a sequencer an event is about."""

    JOURNAL = "journal"  # reading what was decided
    RESUME = "resume"  # at start: what the targets show
    INSPECT = "inspect"  # what the issuer holds: whether a CA can sign, what a crash left behind
    PREPARE = "prepare"  # issue, compose, sign, verify, commit
    WITHDRAW = "withdraw"  # record that a CA is to be taken out of use
    LEAVE_OUT = "leave_out"  # a statement without it
    PUBLISH = "publish"
    ACTIVATE = "activate"  # record that another CA signs
    SWITCH = "switch"  # tell the issuer so
    RETIRE = "retire"
    FOLD = "fold"
    LEAF = "leaf"
    REISSUE = "reissue"  # have cert-manager issue anew


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the CA of ``epoch`` under ``intent`` and publish a statement that contains it."""

    epoch: int
    cause: Cause
    intent: str
    step: Step = Step.PREPARE


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Record that ``ca`` is rolled back, unasked; ``reason`` says why."""

    ca: EpochCa
    reason: str
    step: Step = Step.WITHDRAW


@dataclass(frozen=True, slots=True)
class RemoveAnchors:
    """Publish a statement without ``cas``; ``added`` is the new CA that it brings where an urgent one needs it.

    ``due`` is when the statement after it is.
    """

    cas: tuple[EpochCa, ...]
    cause: Cause
    added: Prepare | None
    due: int
    step: Step = Step.LEAVE_OUT


@dataclass(frozen=True, slots=True)
class Activate:
    """Record that ``ca`` signs from here on; ``skipped`` are the fingerprints of older CAs that never will."""

    ca: EpochCa
    opening: Opening
    unproven: tuple[str, ...]
    skipped: tuple[str, ...]
    step: Step = Step.ACTIVATE


@dataclass(frozen=True, slots=True)
class SwitchSigner:
    """Tell the issuer to sign with ``ca``, which the journal says is activated."""

    ca: EpochCa
    step: Step = Step.SWITCH


@dataclass(frozen=True, slots=True)
class Retire:
    """Delete CAs and their keys: an epoch after their expiry, or never published (``orphans``)."""

    intents: tuple[str, ...]
    orphans: bool
    step: Step = Step.RETIRE


@dataclass(frozen=True, slots=True)
class Compact:
    """Replace the journal's records up to ``through`` by those of ``keep``."""

    keep: tuple[Entry, ...]
    through: int
    step: Step = Step.FOLD


@dataclass(frozen=True, slots=True)
class Hold:
    """``ca`` should be signing since ``since`` and its gate is closed; at ``until`` the last resort opens it."""

    ca: EpochCa
    since: int
    until: int
    closed: ClosedReason
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before ``until``, unless a receipt, a request or the list of agents changes something."""

    until: int
    hold: Hold | None


Work = Prepare | Withdraw | RemoveAnchors | Activate | SwitchSigner | Retire | Compact

Action = Work | Wait
