"""The records of the journal, one class for each kind; pure."""

from dataclasses import dataclass
from enum import StrEnum

from tidemark.bundle import Bundle, Cause

NAMED = 200
"""Agents that a record names: OpenBao takes no JSON of more than a thousand texts (``max_request_json_strings``)."""


class Opening(StrEnum):
    """Why a CA was activated."""

    GATE = "gate"  # every agent that must prove it has proven it
    DEADLINE = "deadline"  # the same, with applications left behind at their deadline
    OVERRIDE = "override"  # an operator said so, with a reason
    LAST_RESORT = "last_resort"  # the signing CA was about to expire
    BOOTSTRAP = "bootstrap"  # there was no signing CA


@dataclass(frozen=True, slots=True)
class StatementRecord:
    """A bundle was signed. ``intent`` names the CA that it adds in the issuer ("" where it adds none).

    ``who`` asked for it and why (``reason``), where somebody did.
    """

    at: int
    intent: str
    bundle: Bundle
    who: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ActivationRecord:
    """A CA (``ca``: its fingerprint) signs from here on.

    ``unproven`` are agents left behind, the first ``NAMED`` of ``left_behind``; ``skipped`` the fingerprints of older
    CAs that will never be activated.
    """

    at: int
    ca: str
    opening: Opening
    unproven: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    left_behind: int = 0


@dataclass(frozen=True, slots=True)
class OverrideRecord:
    """An operator (``who``) opens the gate of one CA, and why."""

    at: int
    ca: str
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class WithdrawalRecord:
    """A CA is to be taken out of use: from here on it is never activated nor chosen as a replacement.

    ``cause`` is ROLLBACK or REVOCATION. ``urgent``: it is left out at once, whatever that breaks. ``automatic``: no
    operator asked for it. A later record for the same CA makes it more (urgent, a revocation), never less.
    """

    at: int
    ca: str
    cause: Cause
    urgent: bool
    automatic: bool
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeafRecord:
    """A leaf was signed for an operator (``who``), by which CA and why.

    ``name`` is its common name, ``names`` what peers check, ``serial`` in hex. Nothing is decided by it: it tells an
    auditor who holds what for as long as that CA can be trusted.
    """

    at: int
    ca: str
    name: str
    names: tuple[str, ...]
    serial: str
    who: str
    reason: str


Record = StatementRecord | ActivationRecord | OverrideRecord | WithdrawalRecord | LeafRecord


@dataclass(frozen=True, slots=True)
class Entry:
    """A record in its place; positions count from 1 without gaps (a snapshot keeps the positions that it folded)."""

    position: int
    record: Record
