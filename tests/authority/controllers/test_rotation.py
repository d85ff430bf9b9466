"""The rotation sequencer over a world in memory, in virtual time: a life of rotations, and what goes wrong in one."""

import asyncio

import pytest

from authority.fleet.view import FleetState
from authority.journal.record_types import (
    NAMED,
    ActivationRecord,
    Opening,
    OverrideRecord,
    StatementRecord,
)
from authority.journal.replay import replay
from authority.publishers.interface import PublishOutcome
from authority.rotation.events import (
    Activated,
    AnchorsRemoved,
    FleetProven,
    GateHeld,
    Prepared,
    Published,
    Retired,
    StepFailed,
)
from authority.rotation.gate import ClosedReason
from authority.rotation.operator_requests import WithdrawalRequest
from tests.harness.authority.harness import AuthorityHarness, alive
from tests.harness.authority.journal_builder import EPOCH, PLAYGROUND, START
from tests.harness.virtual_time import in_virtual_time
from tidemark.bundle import Cause
from tidemark.epoch import PRESETS
from tidemark.receipt import PodClass


@alive
async def test_a_first_start_prepares_the_present_epoch_and_activates_it_at_once(harness: AuthorityHarness) -> None:
    await harness.settle()
    assert [(e.sequence, e.epoch, e.cause) for e in harness.of(Prepared)] == [(1, EPOCH, Cause.ROTATION)]
    assert [(e.epoch, e.opening) for e in harness.of(Activated)] == [(EPOCH, Opening.BOOTSTRAP)]
    assert harness.issuer.active == f"epoch-{EPOCH}-1"
    assert harness.target.sequence == 1
    assert [(e.target, e.outcome) for e in harness.of(Published)] == [("mounts", PublishOutcome.WRITTEN)]
    assert harness.rotation.targets["mounts"].sequence == 1
    ca = harness.issuer.cas[f"epoch-{EPOCH}-1"].certificate
    assert ca.not_valid_before_utc.timestamp() == START - 5
    assert ca.not_valid_after_utc.timestamp() == START + 80


@alive
async def test_each_epochs_ca_is_prepared_ahead_and_activated_at_its_start(harness: AuthorityHarness) -> None:
    await harness.until(START + 65)
    assert [(e.at - START, e.epoch - EPOCH) for e in harness.of(Prepared)] == [(0, 0), (12, 1), (32, 2), (52, 3)]
    assert [(e.at - START, e.opening) for e in harness.of(Activated)] == [
        (0, Opening.BOOTSTRAP),
        (20, Opening.GATE),
        (40, Opening.GATE),
        (60, Opening.GATE),
    ]
    assert [e.sequence for e in harness.of(FleetProven)] == [1, 2, 3, 4]
    assert harness.of(GateHeld) == []
    assert harness.of(StepFailed) == []


@in_virtual_time
async def test_a_closed_gate_is_reported_once_and_ends_in_the_last_resort() -> None:
    harness = AuthorityHarness(proving=False)
    harness.pods.add("nats-1")
    harness.boot()
    await harness.until(START + 22)
    assert harness.rotation.hold is not None
    (held,) = harness.of(GateHeld)
    assert (held.at - START, held.epoch, held.closed) == (20, EPOCH + 1, ClosedReason.WAITING)
    assert (held.waiting, held.until - START) == (("nats-0", "nats-1"), 60)
    harness.pods.prove("nats-1", harness.pods_mark(), harness.now())
    harness.rotation.wake()
    await harness.until(START + 59)
    assert [e.waiting for e in harness.of(GateHeld)] == [("nats-0", "nats-1"), ("nats-0",), ("nats-0", "nats-1")]
    assert len(harness.of(Activated)) == 1
    await harness.until(START + 61)
    last = harness.of(Activated)[-1]
    assert (last.epoch, last.opening, last.unproven) == (EPOCH + 3, Opening.LAST_RESORT, ("nats-0", "nats-1"))
    assert len(last.skipped) == 2
    assert harness.rotation.hold is None
    await harness.stop()


@in_virtual_time
async def test_a_receipt_opens_the_gate_the_moment_it_arrives() -> None:
    harness = AuthorityHarness(proving=False)
    harness.boot()
    await harness.until(START + 25)
    harness.pods.prove("nats-0", harness.pods_mark(), harness.now())
    harness.rotation.wake()
    await harness.settle()
    assert [(e.at - START, e.opening) for e in harness.of(Activated)][1:] == [(25, Opening.GATE)]
    (proven,) = harness.of(FleetProven)
    assert proven.sequence == 2
    assert 12.9 < proven.seconds < 13.1
    await harness.stop()


@alive
async def test_an_application_left_behind_is_named(harness: AuthorityHarness) -> None:
    await harness.until(START + 10)
    harness.pods.add("orders", PodClass.APPLICATION)
    harness.proving = False
    for second in range(11, 46):
        await harness.until(START + second)
        harness.pods.prove("nats-0", harness.pods_mark(), harness.now())
        harness.rotation.wake()
    assert [(e.at - START, e.opening, e.unproven) for e in harness.of(Activated)][1:] == [
        (40, Opening.DEADLINE, ("orders",))
    ]


@in_virtual_time
async def test_activation_record_counts_left_behind_agents_and_names_the_first() -> None:
    harness = AuthorityHarness(proving=False)
    names = sorted(["nats-0", *(f"orders-{number:04d}" for number in range(1500))])
    for name in names[1:]:
        harness.pods.add(name)
    harness.boot()
    await harness.settle()
    (activated,) = harness.of(Activated)
    assert sorted(activated.unproven) == names
    (record,) = harness.rotation.history.activations
    assert (record.left_behind, record.unproven) == (len(names), activated.unproven[:NAMED])
    await harness.stop()


@alive
async def test_an_outage_longer_than_v_recovers_by_itself(harness: AuthorityHarness) -> None:
    await harness.until(START + 25)
    await harness.stop()
    await asyncio.sleep(500)
    harness.boot()
    await harness.settle()
    epoch = PLAYGROUND.clock.epoch_at(harness.now())
    assert [(e.epoch, e.opening) for e in harness.of(Activated)][2:] == [(epoch, Opening.BOOTSTRAP)]
    await harness.sleep(40)
    assert [e.opening for e in harness.of(Activated)][3:] == [Opening.GATE, Opening.GATE]


@alive
async def test_over_many_epochs_old_cas_are_retired_and_the_journal_stays_small(harness: AuthorityHarness) -> None:
    await harness.until(START + 20 * 40)
    assert 5 <= len(harness.issuer.cas) <= 8
    assert len(harness.journal.records) < 40
    assert harness.journal.last > 80
    history = replay(await harness.journal.read())
    assert {ca.ca_id for ca in history.cas if ca.ca_id} >= set(harness.issuer.cas)
    await harness.stop()
    harness.events.clear()
    harness.boot()
    await harness.until(START + 20 * 42 - 5)
    assert [e.opening for e in harness.of(Activated)] == [Opening.GATE]
    assert not harness.of(Retired, lambda e: e.orphans)


@pytest.mark.parametrize(("before", "after"), [("playground", "testing"), ("testing", "playground")])
@in_virtual_time
async def test_another_epoch_length_takes_over_without_a_gap(before: str, after: str) -> None:
    harness = AuthorityHarness(timing=PRESETS[before])
    harness.boot()
    await harness.sleep(PRESETS[before].clock.epoch_seconds * 2)
    await harness.stop()
    harness.timing = PRESETS[after]
    harness.events.clear()
    harness.boot()
    await harness.sleep(1)
    harness.rotation.wake()
    await harness.settle()
    first = harness.of(Activated)[0]
    assert (first.opening, first.epoch) == (Opening.GATE, PRESETS[after].clock.epoch_at(harness.now()))
    await harness.sleep(PRESETS[after].clock.epoch_seconds * 6)
    assert {e.opening for e in harness.of(Activated)} == {Opening.GATE}
    assert harness.of(StepFailed) == []
    await harness.stop()


@in_virtual_time
async def test_statement_counts_by_old_clock_after_withdrawal_of_new_ca() -> None:
    """The statement then counts by its clock: agents look whether the first CA ends as that says."""
    harness = AuthorityHarness()
    harness.boot()
    await harness.until(START + 25)
    await harness.stop()
    harness.timing = PRESETS["testing"]
    harness.boot()
    await harness.sleep(1)
    bad = harness.rotation.history.cas[-1]
    assert bad.clock == PRESETS["testing"].clock
    await harness.rotation.commands.withdraw(
        "ada", "it was too early", WithdrawalRequest(Cause.ROLLBACK, bad.sha256, urgent=True)
    )
    await harness.sleep(1)
    (left_out,) = harness.of(AnchorsRemoved)
    statements = {one.statement.sequence: one.statement for one in harness.rotation.history.statements}
    assert statements[left_out.sequence].clock == PLAYGROUND.clock
    assert harness.of(StepFailed) == []
    await harness.stop()


@alive
async def test_replica_that_leads_again_forgets_records_compacted_meanwhile(
    harness: AuthorityHarness,
) -> None:
    """The head stays where it is then, and a fold that names records which are gone could not be read any more."""
    await harness.until(START + 25)
    whole = harness.rotation.history.entries
    harness.journal.put(OverrideRecord(harness.now(), "c" * 64, "ada", "practice"))
    harness.rotation.wake()
    await harness.settle()
    await harness.stop()
    rotation = harness.rotation
    assert rotation.history.head == whole[-1].position + 1
    await harness.journal.compact((whole[0], *whole[2:]), through=whole[-1].position)
    running_again = asyncio.create_task(rotation.run())
    await harness.settle()
    assert whole[1] not in rotation.history.entries
    running_again.cancel()
    await asyncio.gather(running_again, return_exceptions=True)


@in_virtual_time
async def test_rotation_works_without_root_in_bundles() -> None:
    harness = AuthorityHarness(include_root=False)
    harness.boot()
    await harness.until(START + 25)
    assert len(harness.journal_store.history.statements[-1].certificates) == 2
    assert harness.rotation.hold is None
    await harness.stop()


@alive
async def test_view_shows_the_fleet_as_the_plan_sees_it(harness: AuthorityHarness) -> None:
    await harness.until(START + 13)
    view = harness.view(harness.rotation.history, harness.now())
    assert [agent.state for agent in view.agents] == [FleetState.PROVEN]
    records = [type(record) for record in harness.journal.records.values()]
    assert records == [StatementRecord, ActivationRecord, StatementRecord]
