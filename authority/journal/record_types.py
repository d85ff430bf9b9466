"""The records of the journal, one class for each kind; pure."""

from dataclasses import dataclass
from enum import StrEnum

from tidemark.bundle import Bundle, Cause

NAMED = 200
"""Agents that a record names at most: OpenBao refuses JSON with more than a thousand strings.

Its setting is ``max_request_json_strings``.
"""


class Opening(StrEnum):
    """Why a CA was activated. The values stand on disk."""

    GATE = "gate"
    """Every expected agent has proven the CA."""

    DEADLINE = "deadline"
    """Every required agent has proven the CA; applications are left behind at their deadline."""

    OVERRIDE = "override"
    """An operator opened the gate, with a reason."""

    LAST_RESORT = "last_resort"
    """The signing CA was about to expire."""

    BOOTSTRAP = "bootstrap"
    """There was no signing CA."""


@dataclass(frozen=True, slots=True)
class StatementRecord:
    """A bundle was signed."""

    at: int
    """Unix seconds, as in every record."""

    ca_id: str
    """Name in the issuer of the CA that the statement adds ("" where it adds none); on disk ``intent``."""

    bundle: Bundle

    who: str = ""
    """The operator that asked for the statement, "" where none did."""

    reason: str = ""
    """Why the operator asked."""


@dataclass(frozen=True, slots=True)
class ActivationRecord:
    """A CA signs from here on."""

    at: int

    ca: str
    """The CA's fingerprint, as in every record."""

    opening: Opening

    unproven: tuple[str, ...] = ()
    """Names of agents that have not proven the CA, the first ``NAMED`` of them."""

    skipped: tuple[str, ...] = ()
    """Fingerprints of older CAs that will never be activated."""

    left_behind: int = 0
    """How many agents have not proven the CA."""


@dataclass(frozen=True, slots=True)
class OverrideRecord:
    """An operator (``who``) opens the gate of one CA, for a ``reason``."""

    at: int
    ca: str
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class WithdrawalRecord:
    """A CA is to be taken out of use: from here on it is never activated nor chosen as a replacement.

    A later record for the same CA may add to this one (urgent, a revocation), and takes nothing back.
    """

    at: int
    ca: str

    cause: Cause
    """ROLLBACK or REVOCATION."""

    urgent: bool
    """Whether the CA is removed from the statements at once, without waiting for agents."""

    automatic: bool
    """Whether the authority rolls back unasked."""

    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeafRecord:
    """A leaf was signed for an operator.

    Nothing is decided by this record: it tells an auditor who holds which leaf, as long as its CA can be trusted.
    """

    at: int
    ca: str

    name: str
    """The leaf's common name."""

    names: tuple[str, ...]
    """The names that peers check."""

    serial: str
    """In hex."""

    who: str
    reason: str


Record = StatementRecord | ActivationRecord | OverrideRecord | WithdrawalRecord | LeafRecord


@dataclass(frozen=True, slots=True)
class Entry:
    """A record at its position. Positions count from 1; a compaction leaves gaps, and renumbers nothing."""

    position: int
    record: Record
