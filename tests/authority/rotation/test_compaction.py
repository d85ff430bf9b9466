"""Compaction: which records are kept, and which are not."""

from authority.journal.record_types import LeafRecord, OverrideRecord
from authority.rotation.actions import Compact
from authority.rotation.compaction import due_compaction
from tests.harness.authority.journal_builder import (
    EPOCH,
    PLAYGROUND,
    START,
    running,
)

CLOCK = PLAYGROUND.clock


def test_compaction_keeps_every_record_that_still_counts() -> None:
    builder, signing = running()
    for at in range(START, START + 30):
        builder.append(OverrideRecord(at, signing.sha256, "ada", "again"))
    now = signing.retire_at + 1000
    compaction = due_compaction(builder.history, CLOCK, now)
    assert isinstance(compaction, Compact)
    assert [entry.position for entry in compaction.keep] == [1, 2]  # the newest statement and the last activation
    assert compaction.through == builder.history.head - 1  # the head keeps its place


def test_leaf_record_is_kept_as_long_as_its_ca_lives() -> None:
    builder, first = running()
    for epoch in range(EPOCH + 1, EPOCH + 20):
        ca = builder.prepare(epoch, CLOCK.prepare_at(epoch))
        builder.activate(ca, CLOCK.start(epoch))
    for ca in (first, builder.history.cas[-2]):
        builder.append(LeafRecord(START, ca.sha256, "grace", ("grace",), "7f0a", "ada", "a look by hand"))
    gone, kept = builder.entries[-2:]
    assert (builder.history.signing, builder.history.newest) == (
        builder.history.cas[-1],
        builder.history.statements[-1],
    )
    for sequel in range(2):  # so that neither stands at the head
        builder.append(OverrideRecord(START, first.sha256, "ada", f"{sequel}"))
    compaction = due_compaction(builder.history, CLOCK, CLOCK.start(EPOCH + 19) + 1)
    assert isinstance(compaction, Compact)
    assert compaction.through > kept.position
    assert kept in compaction.keep
    assert gone not in compaction.keep
