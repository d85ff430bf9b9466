"""The plan: what is asked for, when, and in which order."""

from collections.abc import Collection
from dataclasses import replace

import pytest

from authority.fleet.view import FleetView
from authority.journal.history import EpochCa, History
from authority.journal.record_types import ActivationRecord, Opening, StatementRecord
from authority.rotation.actions import Action, Activate, Compact, Prepare, Retire, Step, SwitchSigner, Wait
from authority.rotation.compaction import COMPACT_AT
from authority.rotation.gate import ClosedReason
from authority.rotation.plan import next_action
from authority.rotation.snapshot import Snapshot
from tests.harness.authority.journal_builder import (
    EPOCH,
    PLAYGROUND,
    START,
    JournalBuilder,
    Pods,
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


def ask(
    builder: JournalBuilder, now: int, pods: Pods | None = None, clock: EpochClock = CLOCK, *backing_off: Step
) -> Action:
    """Ask the plan with an issuer that holds exactly the CAs that the journal names, and knows which CA signs."""
    shown = snapshot(builder, pods.view(builder, now) if pods else NOBODY, now, clock)
    held = frozenset(ca.ca_id for ca in builder.history.cas if ca.ca_id and now < ca.retire_at)
    return next_action(replace(shown, ca_ids=held), frozenset(backing_off))


def snapshot_of(history: History, now: int, ca_ids: Collection[str], active: str | None) -> Snapshot:
    """A deployment without agents, and an issuer that holds ``ca_ids`` and signs with ``active``."""
    return Snapshot(history, NOBODY, CLOCK, now, ca_ids=frozenset(ca_ids), active=active)


def held_deployment() -> tuple[JournalBuilder, EpochCa, EpochCa, Pods]:
    """A deployment past the start of the next epoch, with one agent that has not proven its CA."""
    builder, signing = running()
    return builder, signing, builder.prepare(EPOCH + 1, PREPARED), servers("nats-0")


def test_an_empty_journal_asks_for_the_present_epoch() -> None:
    now = START + 3
    assert ask(JournalBuilder(), now) == Prepare(EPOCH, Cause.ROTATION, f"epoch-{EPOCH}-1")


def test_first_ca_is_activated_at_once_then_issuer_is_switched() -> None:
    builder = JournalBuilder()
    ca = builder.prepare(EPOCH, START + 3)
    action = ask(builder, START + 3, servers("nats-0"))
    assert action == Activate(ca, Opening.BOOTSTRAP, ("nats-0",), ())
    builder.activate(ca, START + 3)
    shown = snapshot_of(builder.history, START + 3, {ca.ca_id}, None)
    signing = builder.history.signing
    assert signing is not None
    assert next_action(shown) == SwitchSigner(signing)
    assert next_action(replace(shown, active=ca.ca_id)) == Wait(PREPARED, None)


def test_the_next_epochs_ca_is_prepared_in_its_window_and_only_once() -> None:
    builder, _ = running()
    assert ask(builder, PREPARED - 1) == Wait(PREPARED, None)
    assert ask(builder, PREPARED) == Prepare(EPOCH + 1, Cause.ROTATION, f"epoch-{EPOCH + 1}-2")
    builder.prepare(EPOCH + 1, PREPARED)
    assert isinstance(ask(builder, PREPARED), Wait)


def test_proven_ca_is_activated_at_its_start_and_not_before() -> None:
    builder, _, ca, pods = held_deployment()
    pods.prove("nats-0", builder.mark(), PREPARED + 1)
    assert ask(builder, NEXT - 1, pods) == Wait(NEXT, None)
    assert ask(builder, NEXT, pods) == Activate(ca, Opening.GATE, (), ())


def test_closed_gate_holds_ca_and_names_waiting_agents() -> None:
    builder, signing, ca, pods = held_deployment()
    action = ask(builder, NEXT, pods)
    assert isinstance(action, Wait)
    assert action.hold is not None
    assert action.hold.ca == ca
    assert (action.hold.since, action.hold.until) == (NEXT, signing.not_after - 20)
    assert (action.hold.closed, action.hold.waiting) == (ClosedReason.WAITING, ("nats-0",))


def test_rotation_goes_on_while_held() -> None:
    builder, _, _, pods = held_deployment()
    assert ask(builder, NEXT + 12, pods) == Prepare(EPOCH + 2, Cause.ROTATION, f"epoch-{EPOCH + 2}-3")


def test_the_newest_ca_with_an_open_gate_is_chosen_and_older_ones_are_skipped() -> None:
    builder, _, older, pods = held_deployment()
    newer = builder.prepare(EPOCH + 2, NEXT + 12)
    pods.prove("nats-0", builder.mark(), NEXT + 20)
    assert ask(builder, NEXT + 20, pods) == Activate(newer, Opening.GATE, (), (older.sha256,))


def test_before_the_newer_one_starts_the_older_one_is_activated() -> None:
    builder, _, older, pods = held_deployment()
    builder.prepare(EPOCH + 2, NEXT + 12)
    pods.prove("nats-0", builder.mark(), NEXT + 13)
    assert ask(builder, NEXT + 13, pods) == Activate(older, Opening.GATE, (), ())


def test_last_resort_takes_newest_ca_public_for_p_and_names_unproven() -> None:
    builder, signing, first, pods = held_deployment()
    second = builder.prepare(EPOCH + 2, NEXT + 12)
    resort = signing.not_after - 20
    assert resort == NEXT + 40
    third = builder.prepare(EPOCH + 3, resort - 8)
    fourth = builder.prepare(EPOCH + 3, resort - 7, Cause.FORCED)
    assert isinstance(ask(builder, resort - 1, pods), Wait)
    assert ask(builder, resort, pods) == Activate(
        third, Opening.LAST_RESORT, ("nats-0",), (first.sha256, second.sha256)
    )
    assert fourth.issue_order > third.issue_order


def test_the_last_resort_waits_for_p_after_the_first_publication() -> None:
    builder, signing = running()
    late = signing.not_after - 10  # nothing could be prepared for long
    ca = builder.prepare(CLOCK.epoch_at(late), late)
    pods = servers("nats-0")
    assert isinstance(ask(builder, late + 7, pods, CLOCK, Step.PREPARE), Wait)
    assert ask(builder, late + 8, pods, CLOCK, Step.PREPARE) == Activate(ca, Opening.LAST_RESORT, ("nats-0",), ())


def test_a_proven_ca_is_activated_before_its_start_where_the_signing_one_is_ending() -> None:
    builder, signing = running()
    ending = signing.not_after - 20
    epoch = CLOCK.epoch_at(ending) + 1
    ca = builder.prepare(epoch, ending - 5)
    pods = servers("nats-0")
    pods.prove("nats-0", builder.mark(), ending - 4)
    assert ca.start > ending
    assert isinstance(ask(builder, ending - 1, pods, CLOCK, Step.PREPARE), Wait)
    assert ask(builder, ending, pods) == Activate(ca, Opening.GATE, (), ())


def test_a_forced_ca_is_activated_as_soon_as_its_gate_opens() -> None:
    builder, _ = running()
    builder.prepare(EPOCH + 1, PREPARED)
    forced = builder.prepare(EPOCH + 1, PREPARED + 1, Cause.FORCED)
    pods = servers("nats-0")
    assert isinstance(ask(builder, PREPARED + 1, pods), Wait)
    pods.prove("nats-0", builder.mark(), PREPARED + 2)
    action = ask(builder, PREPARED + 2, pods)
    assert isinstance(action, Activate)
    assert action.ca == forced


def test_a_forced_ca_is_late_only_once_it_was_public_for_p() -> None:
    builder, _ = running()
    builder.prepare(EPOCH, START + 1, Cause.FORCED)
    before, after = ask(builder, START + 8, servers("nats-0")), ask(builder, START + 9, servers("nats-0"))
    assert isinstance(before, Wait)
    assert isinstance(after, Wait)
    assert before.hold is None
    assert after.hold is not None


def test_outage_of_one_epoch_prepares_present_then_next_epoch() -> None:
    builder, _ = running()
    now = START + 35  # epoch + 1 was never prepared, and the window of epoch + 2 has begun
    assert ask(builder, now) == Prepare(EPOCH + 1, Cause.ROTATION, f"epoch-{EPOCH + 1}-2")
    builder.prepare(EPOCH + 1, now)
    assert ask(builder, now) == Prepare(EPOCH + 2, Cause.ROTATION, f"epoch-{EPOCH + 2}-3")


def test_after_outage_longer_than_v_present_ca_is_activated_before_next_is_prepared() -> None:
    builder, signing = running()
    now = signing.not_after + 15
    pods = servers("nats-0")
    epoch = CLOCK.epoch_at(now)
    assert ask(builder, now, pods) == Prepare(epoch, Cause.ROTATION, f"epoch-{epoch}-2")
    ca = builder.prepare(epoch, now)
    assert ask(builder, now, pods) == Activate(ca, Opening.BOOTSTRAP, ("nats-0",), ())
    builder.activate(ca, now)
    assert ask(builder, now, pods) == Prepare(epoch + 1, Cause.ROTATION, f"epoch-{epoch + 1}-3")


def test_bootstrap_prefers_a_ca_that_the_fleet_has_proven_then_one_it_had_time_for() -> None:
    builder, signing = running()
    now = signing.not_after
    known, fresh = builder.prepare(EPOCH + 3, now - 10), builder.prepare(EPOCH + 4, now - 1)
    pods = servers("nats-0")
    action = ask(builder, now, pods)
    assert isinstance(action, Activate)
    assert (action.ca, action.opening) == (known, Opening.BOOTSTRAP)
    pods.prove("nats-0", builder.mark(), now)
    action = ask(builder, now, pods)
    assert isinstance(action, Activate)
    assert action.ca == fresh


def test_another_epoch_length_asks_for_a_ca_of_its_own() -> None:
    builder, _ = running()
    longer = EpochClock(epoch_seconds=60, validity_seconds=240, prepare_seconds=20)
    now = START + 3
    action = ask(builder, now, None, longer)
    assert action == Prepare(longer.epoch_at(now), Cause.ROTATION, f"epoch-{longer.epoch_at(now)}-2")
    changed = JournalBuilder(
        replace(PLAYGROUND, clock=longer, leaf_seconds=120), entries=builder.entries, history=builder.history
    )
    ca = changed.prepare(longer.epoch_at(now), now)
    pods = servers("nats-0")
    pods.prove("nats-0", changed.mark(), now + 1)
    assert ask(changed, now + 1, pods, longer) == Activate(ca, Opening.GATE, (), ())


def test_an_adopted_statement_is_followed_by_one_of_ours_at_once() -> None:
    builder, _ = running()
    lost, _ = running()
    for _ in range(3):
        lost.prepare(EPOCH, START + 1, Cause.FORCED)
    newest = lost.history.newest
    assert newest is not None
    builder.append(StatementRecord(START + 2, "", newest.bundle))
    assert ask(builder, START + 2) == Prepare(EPOCH, Cause.ROTATION, f"epoch-{EPOCH}-5")
    builder.prepare(EPOCH, START + 2)
    assert isinstance(ask(builder, START + 2), Wait)


def test_cas_are_retired_an_epoch_after_their_expiry() -> None:
    builder, old = running()
    current = CLOCK.epoch_at(old.retire_at)
    new = builder.prepare(current, old.retire_at - 15)
    builder.activate(new, old.retire_at - 15)
    builder.prepare(current + 1, old.retire_at - 1)
    ca_ids = frozenset(ca.ca_id for ca in builder.history.cas)
    shown = snapshot_of(builder.history, old.retire_at, ca_ids, new.ca_id)
    assert isinstance(next_action(replace(shown, now=old.retire_at - 1)), Wait)
    assert next_action(shown) == Retire((old.ca_id,), orphans=False)
    assert isinstance(next_action(replace(shown, ca_ids=ca_ids - {old.ca_id})), Wait)


def test_orphan_is_retired_once_no_statement_can_name_it() -> None:
    """Not before: a replica that was paused may yet commit the statement that brings it."""
    builder, signing = running()
    waiting = {"epoch-5-2", "epoch-5-3"}
    shown = snapshot_of(builder.history, PREPARED - 1, {signing.ca_id, "epoch-5-1", *waiting}, signing.ca_id)
    assert next_action(shown) == Retire(("epoch-5-1",), orphans=True)
    shown = replace(shown, ca_ids=frozenset({signing.ca_id, *waiting}))
    assert isinstance(next_action(shown), Wait)
    second = builder.prepare(EPOCH + 1, PREPARED)
    shown = snapshot_of(builder.history, PREPARED, {signing.ca_id, second.ca_id, *waiting}, signing.ca_id)
    assert next_action(shown) == Retire(("epoch-5-2",), orphans=True)


def test_lost_ca_never_signs_and_its_epoch_gets_another() -> None:
    builder, signing, ca, pods = held_deployment()
    pods.prove("nats-0", builder.mark(), NEXT)
    fleet, held = pods.view(builder, NEXT), {signing.ca_id: signing.sha256, ca.ca_id: ca.sha256}
    shown = replace(snapshot_of(builder.history.held_by(held), NEXT, held, signing.ca_id), fleet=fleet)
    assert next_action(shown) == Activate(ca, Opening.GATE, (), ())
    assert isinstance(next_action(replace(shown, ca_ids=None)), Wait), "activated unseen"
    for found in ({}, {ca.ca_id: ""}, {ca.ca_id: signing.sha256}):
        history = builder.history.held_by({signing.ca_id: signing.sha256, **found})
        shown = replace(shown, history=history, ca_ids=frozenset({signing.ca_id, *found}))
        assert next_action(shown) == Prepare(EPOCH + 1, Cause.ROTATION, f"epoch-{EPOCH + 1}-3")


def test_a_lost_ca_that_was_withdrawn_is_not_made_again() -> None:
    builder, signing, ca, pods = held_deployment()
    builder.withdraw(ca, NEXT, Cause.ROLLBACK)
    history = builder.history.held_by({signing.ca_id: signing.sha256})
    shown = replace(snapshot_of(history, NEXT, {signing.ca_id}, signing.ca_id), fleet=pods.view(builder, NEXT))
    assert not isinstance(next_action(shown), Prepare)


def test_lost_signing_ca_is_replaced_and_issuer_is_not_switched_to_it() -> None:
    builder, _ = running()
    shown = snapshot_of(builder.history.held_by({}), START + 1, (), None)
    assert next_action(shown) == Prepare(EPOCH, Cause.ROTATION, f"epoch-{EPOCH}-2")
    assert isinstance(next_action(shown, frozenset({Step.PREPARE})), Wait)


def test_step_in_backoff_keeps_no_other_from_being_done() -> None:
    builder, _, ca, pods = held_deployment()
    pods.prove("nats-0", builder.mark(), NEXT)
    builder.append(ActivationRecord(NEXT, ca.sha256, Opening.GATE))
    now = NEXT + 12
    shown = snapshot_of(builder.history, now, {"epoch-5-1"}, None)
    assert isinstance(next_action(shown), SwitchSigner)
    assert isinstance(next_action(shown, frozenset({Step.SWITCH})), Prepare)
    assert isinstance(next_action(shown, frozenset({Step.SWITCH, Step.PREPARE})), Retire)
    rest = frozenset({Step.SWITCH, Step.PREPARE, Step.RETIRE})
    assert isinstance(next_action(shown, rest), Wait)


def long_journal(epochs: int) -> JournalBuilder:
    builder, _ = running()
    for epoch in range(EPOCH + 1, EPOCH + epochs):
        ca = builder.prepare(epoch, CLOCK.prepare_at(epoch))
        builder.activate(ca, CLOCK.start(epoch))
    return builder


def test_journal_is_compacted_once_enough_records_are_unneeded() -> None:
    builder = long_journal(20)
    now = CLOCK.start(EPOCH + 19) + 1
    compaction = ask(builder, now)
    assert isinstance(compaction, Compact)
    dropped = [
        entry for entry in builder.entries if entry.position <= compaction.through and entry not in compaction.keep
    ]
    assert len(dropped) >= COMPACT_AT
    for entry in dropped:
        assert entry.record.at <= now - 80 - 20
    before = builder.history
    builder.entries = [*compaction.keep, *(entry for entry in builder.entries if entry.position > compaction.through)]
    after = JournalBuilder(entries=builder.entries[:-1], history=before)
    after.append(builder.entries[-1].record)
    assert (after.history.newest, after.history.signing and after.history.signing.sha256) == (
        before.newest,
        before.signing and before.signing.sha256,
    )
    live = {ca.sha256 for ca in before.cas if now < ca.retire_at}
    assert {ca.sha256 for ca in after.history.cas if ca.ca_id} >= live


@pytest.mark.parametrize("now", [START, START + 11, NEXT, NEXT + 13])
def test_waiting_ends_in_the_future(now: int) -> None:
    builder, _, _, pods = held_deployment()
    builder.prepare(EPOCH + 2, NEXT + 12)
    action = ask(builder, now, pods)
    assert isinstance(action, Wait)
    assert action.until > now
