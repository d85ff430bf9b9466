"""Compaction: which records of the journal are still needed, and when the others are worth removing; pure."""

from authority.journal.history import History
from authority.journal.record_types import (
    ActivationRecord,
    Entry,
    LeafRecord,
    OverrideRecord,
    StatementRecord,
    WithdrawalRecord,
)
from authority.rotation.actions import Compact
from tidemark.epoch import EpochClock

COMPACT_AT = 16
"""The journal is compacted once so many of its records are needed no more."""


def due_compaction(history: History, clock: EpochClock, now: int) -> Compact | None:
    """The compaction that is due, if one is.

    What the CAs that are not retired still rest on is kept, and every statement since the oldest one needed.
    """
    # Young records are always kept: a receipt or an auditor may still name them.
    old = now - clock.validity_seconds - clock.epoch_seconds

    # A CA that is not retired needs its first statement, and what was decided about the CA since.
    live = {ca.sha256 for ca in history.cas if now < ca.retire_at}
    first_of_live = {ca.journal_position for ca in history.cas if ca.sha256 in live}

    # Statements are kept from the oldest needed one on, without exception: each names the digest of the one before,
    # and an auditor who follows that chain must find no gap.
    needed_from = min(
        (signed.position for signed in history.statements if signed.at > old or signed.position in first_of_live),
        default=history.newest.position if history.newest else history.head,
    )

    def is_needed(entry: Entry) -> bool:
        record = entry.record
        # The last record is always kept: its position is the head that the next append is compared with.
        if record.at > old or entry.position == history.head:
            return True
        match record:
            case StatementRecord():
                return entry.position >= needed_from
            case ActivationRecord():
                return record is history.activations[-1] or record.ca in live
            case OverrideRecord() | WithdrawalRecord() | LeafRecord():
                return record.ca in live

    dropped = [entry.position for entry in history.entries if not is_needed(entry)]
    if len(dropped) < COMPACT_AT:
        return None
    # Records after the last dropped one stay where they are, so the snapshot need not repeat them.
    through = dropped[-1]
    keep = tuple(entry for entry in history.entries if entry.position <= through and is_needed(entry))
    return Compact(keep, through)
