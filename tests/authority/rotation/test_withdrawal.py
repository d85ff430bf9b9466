"""Withdrawals as the plan decides them: replacements, leaves, last resorts, and what is rolled back unasked."""

from dataclasses import replace
from fractions import Fraction

import pytest

from authority.fleet.view import FleetView
from authority.journal.history import EpochCa
from authority.journal.record_types import Opening
from authority.rotation.actions import Action, Activate, Prepare, RemoveAnchors, Wait, Withdraw
from authority.rotation.deadlines import removal_due_at
from authority.rotation.plan import next_action
from authority.rotation.replacement import replacement_of
from authority.rotation.snapshot import Snapshot
from authority.rotation.withdrawal import WithdrawalStage, leaf_reissue, progress
from tests.harness.authority.journal_builder import (
    EPOCH,
    PLAYGROUND,
    START,
    JournalBuilder,
    Pods,
    leaf_of,
    rotated,
    running,
    servers,
    snapshot,
)
from tidemark.bundle import Cause
from tidemark.receipt import PodClass

CLOCK = PLAYGROUND.clock
NEXT = START + 20
TOLERANCE = PLAYGROUND.tolerance_seconds


def ask(builder: JournalBuilder, now: int, pods: Pods, above: Fraction = Fraction(1, 3)) -> Action:
    return next_action(replace(shown(builder, now, pods), rollback_above=above))


def shown(builder: JournalBuilder, now: int, pods: Pods) -> Snapshot:
    return snapshot(builder, pods.view(builder, now), now)


def test_a_rollback_goes_to_the_newest_older_ca_and_waits_for_its_gate() -> None:
    builder, first, second = rotated()
    builder.withdraw(second, NEXT + 3)
    pods = servers("nats-0")
    assert isinstance(ask(builder, NEXT + 3, pods), Wait)
    pods.prove("nats-0", builder.mark(), NEXT + 4)
    assert ask(builder, NEXT + 4, pods) == Activate(first, Opening.GATE, (), ())


def test_a_statement_from_before_the_withdrawal_proves_the_older_ca() -> None:
    builder, first, second = rotated()
    builder.withdraw(second, NEXT + 3)
    pods = servers("nats-0")
    pods.prove("nats-0", builder.mark(1), NEXT + 4)
    assert ask(builder, NEXT + 4, pods) == Activate(first, Opening.GATE, (), ())


def test_an_override_of_its_first_activation_does_not_open_the_gate_again() -> None:
    builder, first, second = rotated()
    builder.override(first, START)
    builder.withdraw(second, NEXT + 3)
    assert isinstance(ask(builder, NEXT + 3, servers("nats-0")), Wait)
    builder.override(first, NEXT + 4)
    action = ask(builder, NEXT + 4, servers("nats-0"))
    assert action == Activate(first, Opening.OVERRIDE, ("nats-0",), ())


def test_an_older_ca_that_the_last_resort_would_replace_at_once_is_no_replacement() -> None:
    builder, first, second = rotated()
    bad = builder.withdraw(second, NEXT + 35)
    assert replacement_of(bad, builder.history, CLOCK, START + 59) == first
    assert replacement_of(bad, builder.history, CLOCK, START + 60) is None


def test_a_newer_ca_serves_where_no_older_one_does_and_need_not_wait_for_its_start() -> None:
    builder, first = running()
    newer = builder.prepare(EPOCH + 1, NEXT - 8)
    builder.withdraw(first, NEXT - 7)
    pods = servers("nats-0")
    pods.prove("nats-0", builder.mark(), NEXT - 6)
    assert ask(builder, NEXT - 6, pods) == Activate(newer, Opening.GATE, (), ())


def test_a_revocation_asks_for_a_new_ca_even_where_an_older_one_is_there() -> None:
    builder, _, second = rotated()
    builder.withdraw(second, NEXT + 3, Cause.REVOCATION)
    assert ask(builder, NEXT + 3, servers("nats-0")) == Prepare(EPOCH + 1, Cause.FORCED, f"epoch-{EPOCH + 1}-3")
    new = builder.prepare(EPOCH + 1, NEXT + 3, Cause.FORCED)
    pods = servers("nats-0")
    assert isinstance(ask(builder, NEXT + 3, pods), Wait)
    pods.prove("nats-0", builder.mark(), NEXT + 4)
    assert ask(builder, NEXT + 4, pods) == Activate(new, Opening.GATE, (), ())


def test_a_revocation_of_a_ca_that_is_not_signing_has_a_new_one_sign_as_well() -> None:
    builder, first, _ = rotated()
    bad = builder.withdraw(first, NEXT + 3, Cause.REVOCATION)
    pods = servers("nats-0")
    new = builder.prepare(EPOCH + 1, NEXT + 3, Cause.FORCED)
    pods.prove("nats-0", builder.mark(), NEXT + 4, leaf_of(builder.history.cas[1], NEXT - TOLERANCE))
    assert ask(builder, NEXT + 4, pods) == Activate(new, Opening.GATE, (), ())
    builder.activate(new, NEXT + 4)
    assert isinstance(ask(builder, NEXT + 4, pods), Wait)
    pods.prove("nats-0", builder.mark(), NEXT + 5, leaf_of(new, NEXT + 4 - TOLERANCE))
    action = ask(builder, NEXT + 5, pods)
    assert isinstance(action, RemoveAnchors)
    assert (action.cas, action.cause) == ((bad,), Cause.REVOCATION)


def test_a_rollback_made_a_revocation_needs_a_ca_issued_since() -> None:
    builder, first, second = rotated()
    builder.withdraw(second, NEXT + 2)
    bad = builder.withdraw(second, NEXT + 3, Cause.REVOCATION)
    assert bad.withdrawal is not None
    assert (bad.withdrawal.cause, bad.withdrawal.at) == (Cause.REVOCATION, NEXT + 2)
    builder.activate(first, NEXT + 3)
    assert replacement_of(bad, builder.history, CLOCK, NEXT + 3) is None
    again = builder.withdraw(second, NEXT + 4, Cause.ROLLBACK, urgent=True)
    assert again.withdrawal is not None
    assert (again.withdrawal.cause, again.withdrawal.urgent) == (Cause.REVOCATION, True)


def replaced(pods: Pods) -> tuple[JournalBuilder, EpochCa, EpochCa]:
    """A rollback whose replacement was activated at NEXT + 4: the CA before, and the bad one."""
    builder, first, second = rotated()
    bad = builder.withdraw(second, NEXT + 3)
    builder.activate(first, NEXT + 4)
    for pod in pods.expected:
        pods.prove(pod.name, builder.mark(), NEXT + 5)
    return builder, first, bad


@pytest.mark.parametrize(
    ("by", "not_before", "is_done"),
    [
        ("first", NEXT + 4 - TOLERANCE, True),
        ("first", NEXT + 3 - TOLERANCE, False),  # shown before the leaf of the bad CA, which may be on its way
        ("second", NEXT + 4, False),
    ],
)
def test_a_leaf_counts_where_another_ca_signed_it_since_the_activation(
    by: str,
    not_before: int,
    is_done: bool,  # a parameter of the test
) -> None:
    pods = servers("nats-0")
    builder, first, bad = replaced(pods)
    pods.prove("nats-0", builder.mark(), NEXT + 5, leaf_of(first if by == "first" else bad, not_before))
    assert leaf_reissue(bad, shown(builder, NEXT + 5, pods)).is_done is is_done
    assert isinstance(ask(builder, NEXT + 5, pods), RemoveAnchors) is is_done


def test_leaf_of_new_ca_counts_with_any_issuer_clock() -> None:
    builder, _, second = rotated()
    bad = builder.withdraw(second, NEXT + 3, Cause.REVOCATION)
    new = builder.prepare(EPOCH + 1, NEXT + 3, Cause.FORCED)
    builder.activate(new, NEXT + 4)
    pods = servers("nats-0")
    pods.prove("nats-0", builder.mark(), NEXT + 5, leaf_of(new, NEXT + 4 - TOLERANCE - 2))
    assert leaf_reissue(bad, shown(builder, NEXT + 5, pods)).is_done


def test_agent_without_leaf_report_is_waited_for_also_an_application() -> None:
    pods = servers("nats-0")
    pods.add("orders", PodClass.APPLICATION)
    builder, first, bad = replaced(pods)
    pods.prove("nats-0", builder.mark(), NEXT + 5, leaf_of(first, NEXT + 4))
    assert leaf_reissue(bad, shown(builder, NEXT + 5, pods)).waiting == ("orders",)
    pods.prove("orders", builder.mark(), NEXT + 6, leaf_of(first, NEXT + 4))
    assert leaf_reissue(bad, shown(builder, NEXT + 6, pods)).is_done
    assert leaf_reissue(bad, shown(builder, NEXT + 60, pods)).waiting == ("nats-0", "orders")  # long ago is not now
    pods.add("nats-1")
    assert leaf_reissue(bad, shown(builder, NEXT + 6, pods)).waiting == ("nats-1",)  # it has never said anything


def test_neither_an_empty_fleet_nor_an_unreadable_one_has_re_issued_anything() -> None:
    builder, _, bad = replaced(Pods())
    assert not leaf_reissue(bad, shown(builder, NEXT + 5, Pods())).is_done
    unreadable = snapshot(builder, FleetView(readable=False, agents=()), NEXT + 5)
    assert not leaf_reissue(bad, unreadable).is_done
    assert progress(unreadable)[0].stage is WithdrawalStage.REISSUING


def test_removal_is_due_an_epoch_before_expiry_and_p_after_activation() -> None:
    pods = servers("nats-0")
    builder, first, bad = replaced(pods)
    assert removal_due_at(bad, builder.history, CLOCK) == bad.not_after - 20
    builder.activate(first, bad.not_after - 25)
    assert removal_due_at(bad, builder.history, CLOCK) == bad.not_after - 17
    reported = progress(shown(builder, bad.not_after - 24, pods))[0]
    assert (reported.stage, reported.waiting, reported.until) == (
        WithdrawalStage.REISSUING,
        ("nats-0",),
        bad.not_after - 17,
    )


def test_urgent_withdrawal_removes_ca_at_once_and_adds_needed_ca() -> None:
    builder, first, second = rotated()
    bad = builder.withdraw(second, NEXT + 3, urgent=True)
    pods = servers("nats-0")
    due = CLOCK.prepare_at(EPOCH + 2)
    assert ask(builder, NEXT + 3, pods) == RemoveAnchors((bad,), Cause.ROLLBACK, None, due)
    builder.remove(bad, NEXT + 3)
    assert ask(builder, NEXT + 3, pods) == Activate(first, Opening.OVERRIDE, ("nats-0",), ())
    builder.activate(first, NEXT + 3)
    leaked = builder.withdraw(first, NEXT + 4, Cause.REVOCATION, urgent=True)
    added = Prepare(EPOCH + 1, Cause.FORCED, f"epoch-{EPOCH + 1}-4")
    assert ask(builder, NEXT + 4, pods) == RemoveAnchors((leaked,), Cause.REVOCATION, added, due)


def test_an_urgent_revocation_of_an_idle_ca_overrides_the_gate_of_the_new_one() -> None:
    builder, first, _ = rotated()
    bad = builder.withdraw(first, NEXT + 3, Cause.REVOCATION, urgent=True)
    new = builder.prepare(EPOCH + 1, NEXT + 3, Cause.REVOCATION)
    builder.remove(bad, NEXT + 3, Cause.REVOCATION)
    assert ask(builder, NEXT + 3, servers("nats-0")) == Activate(new, Opening.OVERRIDE, ("nats-0",), ())


def test_two_removals_at_once_share_one_statement_with_graver_cause() -> None:
    builder, first, second = rotated()
    third = builder.prepare(EPOCH + 2, NEXT + 12)
    builder.activate(third, NEXT + 20)
    one = builder.withdraw(first, NEXT + 21)
    two = builder.withdraw(second, NEXT + 21, urgent=True)
    pods = servers("nats-0")
    pods.prove("nats-0", builder.mark(), NEXT + 22, leaf_of(third, NEXT + 20))
    action = ask(builder, NEXT + 22, pods)
    assert isinstance(action, RemoveAnchors)
    assert (action.cas, action.cause) == ((one, two), Cause.ROLLBACK)


def test_rotation_goes_on_and_its_newest_ca_does_as_a_replacement() -> None:
    builder, first, second = rotated()
    bad = builder.withdraw(second, NEXT + 3)
    pods = servers("nats-0")
    assert ask(builder, NEXT + 12, pods) == Prepare(EPOCH + 2, Cause.ROTATION, f"epoch-{EPOCH + 2}-3")
    third = builder.prepare(EPOCH + 2, NEXT + 12)
    pods.prove("nats-0", builder.mark(), NEXT + 20)
    assert ask(builder, NEXT + 20, pods) == Activate(third, Opening.GATE, (), ())
    assert replacement_of(bad, builder.history, CLOCK, NEXT + 20) == first
    builder.activate(third, NEXT + 20)
    assert replacement_of(bad, builder.history, CLOCK, NEXT + 20) == builder.history.signing


def test_new_ca_is_made_before_signing_ca_runs_out_after_withdrawals() -> None:
    builder, first, second = rotated()
    bad = builder.withdraw(second, NEXT + 3)
    builder.activate(first, NEXT + 4)
    builder.remove(bad, NEXT + 4)
    end = first.not_after - 20 - 8
    before = [EPOCH + 2]
    for epoch in before:  # withdrawn in its turn
        builder.remove(builder.withdraw(builder.prepare(epoch, NEXT + 12), NEXT + 13), NEXT + 13)
    pods = servers("nats-0")
    builder.prepare(EPOCH + 3, NEXT + 32)
    builder.remove(builder.withdraw(builder.history.cas[-1], NEXT + 33), NEXT + 33)
    action = ask(builder, end, pods)
    assert action == Prepare(EPOCH + 3, Cause.FORCED, builder.history.ca_id_for(EPOCH + 3))


def reverting(names: int, of: int, reason: str = "not_proven") -> tuple[JournalBuilder, Pods]:
    """A newest statement that ``names`` of ``of`` required agents have put back, at NEXT - 4."""
    builder, _ = running()
    good = builder.mark()
    builder.prepare(EPOCH + 1, NEXT - 8)
    pods = servers(*(f"nats-{number}" for number in range(of)))
    for number in range(of):
        if number < names:
            pods.revert(f"nats-{number}", builder.mark(), good, NEXT - 4, reason)
        else:
            pods.prove(f"nats-{number}", builder.mark(), NEXT - 4)
    return builder, pods


@pytest.mark.parametrize(("names", "of", "happens"), [(1, 3, False), (2, 3, True), (2, 6, False), (3, 6, True)])
def test_more_than_a_third_of_the_required_agents_have_to_revert(names: int, of: int, happens: bool) -> None:
    builder, pods = reverting(names, of)
    action = ask(builder, NEXT - 4, pods)
    assert isinstance(action, Withdraw) is happens
    if isinstance(action, Withdraw):
        assert action.ca == builder.history.cas[-1]
        assert action.reason == f"{names} of {of} required agents have put statement 2 back"


def test_share_that_rolls_back_is_configurable() -> None:
    builder, pods = reverting(2, 3)
    assert not isinstance(ask(builder, NEXT - 4, pods, Fraction(1)), Withdraw)
    builder, pods = reverting(1, 3)
    assert isinstance(ask(builder, NEXT - 4, pods, Fraction(0)), Withdraw)
    builder, pods = reverting(0, 3)
    assert not isinstance(ask(builder, NEXT - 4, pods, Fraction(0)), Withdraw)


def test_a_refused_reload_a_rejection_and_an_older_statement_never_count() -> None:
    builder, pods = reverting(3, 3, "reload_refused")
    assert not isinstance(ask(builder, NEXT - 4, pods), Withdraw)
    builder, pods = reverting(3, 3)
    builder.prepare(EPOCH + 1, NEXT - 4, Cause.FORCED)
    assert not isinstance(ask(builder, NEXT - 4, pods), Withdraw)
    builder, pods = reverting(0, 3)
    for pod in pods.expected:  # garbage in the Secret since: why it was put back is not known any more
        pods.revert(pod.name, builder.mark(1), builder.mark(1), NEXT - 4)
    assert not isinstance(ask(builder, NEXT - 4, pods), Withdraw)


def test_applications_stale_receipts_and_an_unreadable_fleet_roll_nothing_back() -> None:
    builder, pods = reverting(0, 3)
    for name in ("orders", "billing", "search"):
        pods.add(name, PodClass.APPLICATION)
        pods.revert(name, builder.mark(), builder.mark(1), NEXT - 4)
    assert not isinstance(ask(builder, NEXT - 4, pods), Withdraw)
    builder, pods = reverting(3, 3)
    assert not isinstance(ask(builder, NEXT + 17, pods), Withdraw)
    unreadable = snapshot(builder, FleetView(readable=False, agents=()), NEXT - 4)
    assert not isinstance(next_action(unreadable), Withdraw)


def test_automatic_rollback_happens_once_an_epoch_and_after_rotation_only() -> None:
    builder, pods = reverting(3, 3)
    bad = builder.withdraw(builder.history.cas[-1], NEXT - 4, automatic=True)
    builder.remove(bad, NEXT - 4)
    for pod in pods.expected:
        pods.revert(pod.name, builder.mark(), builder.mark(1), NEXT - 3)
    assert not isinstance(ask(builder, NEXT - 3, pods), Withdraw)  # of reason rollback
    builder.prepare(EPOCH + 1, NEXT - 2, Cause.FORCED)
    for now, happens in ((NEXT - 1, False), (NEXT, True)):
        for pod in pods.expected:
            pods.revert(pod.name, builder.mark(), builder.mark(1), now)
        assert isinstance(ask(builder, now, pods), Withdraw) is happens


def test_automatic_rollback_needs_replacement_with_two_epochs_left() -> None:
    builder, signing = running()
    good = builder.mark()
    for at, happens in ((signing.not_after - 40, True), (signing.not_after - 39, False)):
        builder.prepare(CLOCK.newest_due(at), at - 1)
        pods = servers("nats-0")
        pods.revert("nats-0", builder.mark(), good, at)
        assert isinstance(ask(builder, at, pods), Withdraw) is happens
