"""What operators ask for: forced rotations, and which CA a withdrawal is about."""

import pytest

from authority.fleet.view import FleetView
from authority.journal.history import EMPTY, EpochCa
from authority.rotation.actions import Prepare
from authority.rotation.operator_requests import RotationRefused, WithdrawalRequest, ca_to_withdraw, force, preview
from tests.harness.authority.journal_builder import (
    EPOCH,
    PLAYGROUND,
    START,
    JournalBuilder,
    leaf_of,
    rotated,
    running,
    servers,
    snapshot,
)
from tidemark.bundle import Cause
from tidemark.epoch import EpochClock

CLOCK = PLAYGROUND.clock
NEXT = START + 20
PREPARED = NEXT - 8
NOBODY = FleetView(readable=True, agents=())


def test_a_forced_rotation_takes_the_highest_epoch_prepared_so_far() -> None:
    builder, _ = running()
    assert force(snapshot(builder, NOBODY, START + 5), 1) == Prepare(EPOCH, Cause.FORCED, f"epoch-{EPOCH}-2")
    builder.prepare(EPOCH + 1, PREPARED)
    assert force(snapshot(builder, NOBODY, PREPARED + 1), 1).epoch == EPOCH + 1
    assert force(snapshot(JournalBuilder(), NOBODY, START + 5), 1) == Prepare(EPOCH, Cause.FORCED, f"epoch-{EPOCH}-1")
    longer = EpochClock(epoch_seconds=60, validity_seconds=240, prepare_seconds=20)
    assert force(snapshot(builder, NOBODY, PREPARED + 1, longer), 1).epoch == longer.epoch_at(PREPARED + 1)


def test_forced_rotations_are_refused_before_they_take_the_room_of_scheduled_ones() -> None:
    builder, _ = running()
    for _ in range(58):
        force(snapshot(builder, NOBODY, START + 1), 1)
        builder.prepare(EPOCH, START + 1, Cause.FORCED)
    with pytest.raises(
        RotationRefused, match="at most 64 certificates, found that with another CA now one would hold 65"
    ):
        force(snapshot(builder, NOBODY, START + 1), 1)
    for epoch in range(EPOCH + 1, EPOCH + 8):  # every scheduled one still fits
        builder.prepare(epoch, CLOCK.prepare_at(epoch))


def test_ca_to_withdraw_is_found_by_epoch_or_fingerprint() -> None:
    builder, first, second = rotated()
    history = builder.history

    def choose(ca: str, cause: Cause = Cause.ROLLBACK) -> EpochCa:
        return ca_to_withdraw(history, WithdrawalRequest(cause, ca, urgent=False), NEXT + 3)

    assert choose("") == second
    assert choose(str(EPOCH)) == first
    assert choose(first.sha256[:6].upper()) == first
    for name in ("1", "abc", "0" * 64, "epoch"):
        with pytest.raises(RotationRefused, match=rf"rollback: expected a CA that is trusted, by '{name}', found only"):
            choose(name)
    with pytest.raises(RotationRefused, match="revocation: expected the CA by its epoch or fingerprint"):
        choose("", Cause.REVOCATION)
    builder.prepare(EPOCH + 1, NEXT + 3, Cause.FORCED)
    history = builder.history
    with pytest.raises(RotationRefused, match=rf"expected one CA by '{EPOCH + 1}', found {second.sha256[:16]}, "):
        choose(str(EPOCH + 1))
    history = EMPTY
    with pytest.raises(RotationRefused, match="found only none"):
        choose("")


def test_by_default_each_rollback_takes_the_next_older_ca() -> None:
    builder, first, second = rotated()
    builder.withdraw(second, NEXT + 3)
    assert ca_to_withdraw(builder.history, WithdrawalRequest(Cause.ROLLBACK, "", urgent=False), NEXT + 3) == first


def test_preview_says_what_urgent_withdrawal_breaks() -> None:
    builder, first, second = rotated()
    pods = servers("nats-0", "nats-1", "nats-2")
    pods.prove("nats-0", builder.mark(), NEXT + 3, leaf_of(second, NEXT))
    pods.prove("nats-1", builder.mark(), NEXT + 3, leaf_of(first, START))
    urgent = WithdrawalRequest(Cause.ROLLBACK, "", urgent=True)
    look = preview(snapshot(builder, pods.view(builder, NEXT + 3), NEXT + 3), urgent, include_root=True)
    assert (look.ca, look.replacement, look.warnings) == (second, first, ())
    assert look.breaks == (
        "1 of 3 agents serve a leaf that it signed, which others refuse until it is re-issued: nats-0",
        "1 of 3 agents do not say who signed the leaf that they serve: nats-2",
        "1 of 3 agents have not proven the replacement, and refuse its leaves until they do: nats-2",
    )
    staged = WithdrawalRequest(Cause.ROLLBACK, "", urgent=False)
    assert preview(snapshot(builder, pods.view(builder, NEXT + 3), NEXT + 3), staged, include_root=True).breaks == ()


def test_revocation_with_root_in_bundle_is_warned_of() -> None:
    builder, _, second = rotated()
    wanted = WithdrawalRequest(Cause.REVOCATION, second.sha256, urgent=False)
    view = snapshot(builder, servers("nats-0").view(builder, NEXT + 3), NEXT + 3)
    (warning,) = preview(view, wanted, include_root=True).warnings
    assert "the root is in the bundle" in warning
    assert preview(view, wanted, include_root=False).warnings == ()
    assert preview(view, wanted, include_root=False).replacement is None
