"""Instants: when the last resort comes, and which CA it may choose."""

from dataclasses import replace

from authority.rotation.deadlines import last_resort_at, ripe_at
from tests.harness.authority.journal_builder import EPOCH, PLAYGROUND, START, running
from tidemark.epoch import PRESETS

NEXT = START + 20
PREPARED = NEXT - 8
CLOCK = PLAYGROUND.clock


def test_the_last_resort_comes_an_epoch_before_the_signing_ca_expires() -> None:
    _, signing = running()
    assert last_resort_at(signing, CLOCK) == signing.not_after - 20
    slower, faster = replace(CLOCK, epoch_seconds=26), replace(CLOCK, epoch_seconds=10)
    assert last_resort_at(signing, slower) == signing.not_after - 20
    assert last_resort_at(signing, faster) == signing.not_after - 10


def test_the_last_resort_chooses_no_ca_that_was_not_public_for_p() -> None:
    builder, signing = running()
    ca = builder.prepare(EPOCH + 1, PREPARED)
    assert ripe_at(ca, signing, CLOCK) == PREPARED + 8
    assert ripe_at(ca, signing, PRESETS["production"].clock) == PREPARED + 8
