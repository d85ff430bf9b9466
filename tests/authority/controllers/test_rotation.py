"""The rotation sequencer over a world in memory, in virtual time: a life of rotations, and what goes wrong in one."""

import asyncio
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authority.controllers.rotation_steps.recovery import READ_SECONDS
from authority.fleet.view import FleetState
from authority.issuer.interface import CaRequest
from authority.journal.record_types import (
    NAMED,
    ActivationRecord,
    Entry,
    Opening,
    OverrideRecord,
    Record,
    StatementRecord,
)
from authority.journal.replay import replay
from authority.pki.keystore import CaPair
from authority.publishers.interface import PublishOutcome
from authority.rotation.actions import Step
from authority.rotation.events import (
    Activated,
    AnchorsRemoved,
    AppendConflict,
    FleetProven,
    GateHeld,
    GateOverridden,
    Prepared,
    Published,
    Retired,
    StepFailed,
)
from authority.rotation.gate import ClosedReason
from authority.rotation.operator_requests import RotationRefused, WithdrawalRequest
from tests.harness import virtual_time
from tests.harness.authority.harness import AuthorityHarness, alive
from tests.harness.authority.journal_builder import DOMAIN, EPOCH, PLAYGROUND, SIGNER, START, JournalBuilder, running
from tests.harness.authority.memory_backends import (
    How,
    MemoryIssuer,
    MemoryJournal,
    MemoryPublisher,
    Strike,
    When,
    statement_of,
)
from tidemark.bundle import Bundle, Cause
from tidemark.certificates import Certificate
from tidemark.epoch import PRESETS
from tidemark.note import Signer
from tidemark.receipt import PodClass

NEXT = START + 20
PREPARED = NEXT - 8


@alive
async def test_a_first_start_prepares_the_present_epoch_and_activates_it_at_once(machine: AuthorityHarness) -> None:
    await machine.settle()
    assert [(e.sequence, e.epoch, e.cause) for e in machine.of(Prepared)] == [(1, EPOCH, Cause.ROTATION)]
    assert [(e.epoch, e.opening) for e in machine.of(Activated)] == [(EPOCH, Opening.BOOTSTRAP)]
    assert machine.issuer.active == f"epoch-{EPOCH}-1"
    assert machine.target.sequence == 1
    assert [(e.target, e.outcome) for e in machine.of(Published)] == [("mounts", PublishOutcome.WRITTEN)]
    assert machine.rotation.targets["mounts"].sequence == 1
    ca = machine.issuer.cas[f"epoch-{EPOCH}-1"].certificate
    assert ca.not_valid_before_utc.timestamp() == START - 5
    assert ca.not_valid_after_utc.timestamp() == START + 80


@alive
async def test_each_epochs_ca_is_prepared_ahead_and_activated_at_its_start(machine: AuthorityHarness) -> None:
    await machine.until(START + 65)
    assert [(e.at - START, e.epoch - EPOCH) for e in machine.of(Prepared)] == [(0, 0), (12, 1), (32, 2), (52, 3)]
    assert [(e.at - START, e.opening) for e in machine.of(Activated)] == [
        (0, Opening.BOOTSTRAP),
        (20, Opening.GATE),
        (40, Opening.GATE),
        (60, Opening.GATE),
    ]
    assert [e.sequence for e in machine.of(FleetProven)] == [1, 2, 3, 4]
    assert machine.of(GateHeld) == []
    assert machine.of(StepFailed) == []


def test_a_closed_gate_is_reported_once_and_ends_in_the_last_resort() -> None:
    async def main() -> None:
        machine = AuthorityHarness(proving=False)
        machine.pods.add("nats-1")
        machine.boot()
        await machine.until(START + 22)
        assert machine.rotation.hold is not None
        (held,) = machine.of(GateHeld)
        assert (held.at - START, held.epoch, held.closed) == (20, EPOCH + 1, ClosedReason.WAITING)
        assert (held.waiting, held.until - START) == (("nats-0", "nats-1"), 60)
        machine.pods.prove("nats-1", machine.pods_mark(), machine.now())
        machine.rotation.wake()
        await machine.until(START + 59)
        assert [e.waiting for e in machine.of(GateHeld)] == [("nats-0", "nats-1"), ("nats-0",), ("nats-0", "nats-1")]
        assert len(machine.of(Activated)) == 1
        await machine.until(START + 61)
        last = machine.of(Activated)[-1]
        assert (last.epoch, last.opening, last.unproven) == (EPOCH + 3, Opening.LAST_RESORT, ("nats-0", "nats-1"))
        assert len(last.skipped) == 2
        assert machine.rotation.hold is None
        await machine.stop()

    virtual_time.run(main())


def test_a_receipt_opens_the_gate_the_moment_it_arrives() -> None:
    async def main() -> None:
        machine = AuthorityHarness(proving=False)
        machine.boot()
        await machine.until(START + 25)
        machine.pods.prove("nats-0", machine.pods_mark(), machine.now())
        machine.rotation.wake()
        await machine.settle()
        assert [(e.at - START, e.opening) for e in machine.of(Activated)][1:] == [(25, Opening.GATE)]
        (proven,) = machine.of(FleetProven)
        assert proven.sequence == 2
        assert 12.9 < proven.seconds < 13.1
        await machine.stop()

    virtual_time.run(main())


@alive
async def test_an_application_left_behind_is_named(machine: AuthorityHarness) -> None:
    await machine.until(START + 10)
    machine.pods.add("orders", PodClass.APPLICATION)
    machine.proving = False
    for second in range(11, 46):
        await machine.until(START + second)
        machine.pods.prove("nats-0", machine.pods_mark(), machine.now())
        machine.rotation.wake()
    assert [(e.at - START, e.opening, e.unproven) for e in machine.of(Activated)][1:] == [
        (40, Opening.DEADLINE, ("orders",))
    ]


def test_activation_record_counts_left_behind_agents_and_names_the_first() -> None:
    async def main() -> None:
        machine = AuthorityHarness(proving=False)
        names = sorted(["nats-0", *(f"orders-{number:04d}" for number in range(1500))])
        for name in names[1:]:
            machine.pods.add(name)
        machine.boot()
        await machine.settle()
        (activated,) = machine.of(Activated)
        assert sorted(activated.unproven) == names
        (record,) = machine.rotation.history.activations
        assert (record.left_behind, record.unproven) == (len(names), activated.unproven[:NAMED])
        await machine.stop()

    virtual_time.run(main())


@dataclass
class CrookedIssuer(MemoryIssuer):
    """Makes CAs that are not valid yet."""

    async def issue_ca(self, request: CaRequest) -> Certificate:
        return await super().issue_ca(replace(request, not_before=request.not_before + 60))


def test_ca_that_agents_would_refuse_is_neither_committed_nor_published() -> None:
    async def main() -> None:
        machine = AuthorityHarness()
        machine.issuer = CrookedIssuer(machine.effects)
        machine.boot()
        await machine.settle()
        failed = machine.of(StepFailed)[0]
        assert failed.step is Step.PREPARE
        assert "anchors" in failed.error
        assert (machine.journal.last, machine.target.bundle) == (0, None)
        await machine.stop()

    virtual_time.run(main())


@dataclass
class Clock:
    """Somebody else's."""

    server_time: float | None = None


def test_nothing_is_activated_or_deleted_while_the_clocks_differ() -> None:
    async def main() -> None:
        there = Clock()
        machine = AuthorityHarness(references={"OpenBao": there})
        machine.boot()
        await machine.until(START + 18)
        machine.issuer.cas["epoch-1-1"] = machine.issuer.cas[f"epoch-{EPOCH}-1"]  # an orphan, to the next start
        machine.issuer.active = "another"
        await machine.stop()
        there.server_time = START - 3600.0
        machine.boot()
        await machine.until(START + 25)
        failed = {event.step for event in machine.of(StepFailed)}
        assert failed == {Step.SWITCH, Step.ACTIVATE, Step.RETIRE, Step.LEAF}
        assert machine.issuer.active == "another"
        assert len(machine.of(Activated)) == 1
        assert "epoch-1-1" in machine.issuer.cas
        there.server_time = START + 30.0
        await machine.until(START + 31)
        assert machine.issuer.active == f"epoch-{EPOCH + 1}-2"
        assert "epoch-1-1" not in machine.issuer.cas
        await machine.stop()

    virtual_time.run(main())


def test_a_failing_target_holds_up_neither_the_others_nor_the_rotation() -> None:
    async def main() -> None:
        broken = MemoryPublisher("broker", is_down=True)
        stuck = MemoryPublisher("stuck", is_hanging=True)
        machine = AuthorityHarness(publishers=[broken, stuck])
        machine.boot()
        await machine.sleep(READ_SECONDS + 1)  # the start waited for the one that does not answer, and no longer
        assert machine.target.sequence == 1
        await machine.until(START + 50)
        assert machine.target.sequence == 3
        failures = machine.of(StepFailed, lambda e: e.step is Step.PUBLISH)
        assert {e.target for e in failures} == {"broker"}
        assert [e.retry_in for e in failures[:5]] == [0.5, 1.0, 2.0, 4.0, 5.0]
        assert "down" in machine.rotation.targets["broker"].error
        broken.is_down = False
        await machine.sleep(6)
        assert broken.sequence == machine.target.sequence == 4
        assert machine.rotation.targets["broker"].error == ""
        await machine.stop()

    virtual_time.run(main())


@alive
async def test_deleted_edited_or_rolled_back_target_is_written_again(machine: AuthorityHarness) -> None:
    await machine.until(START + 13)
    newest = machine.target.bundle
    assert newest is not None
    first = machine.journal_store.history.statements[0].bundle
    for second, found in enumerate([None, Bundle(newest.ca + b"#\n", newest.note), first]):
        machine.target.bundle = found
        await machine.sleep(6 if second else 5)
        assert machine.target.bundle == newest


@alive
async def test_unchanged_targets_are_reported_once_for_each_statement(machine: AuthorityHarness) -> None:
    await machine.settle()
    await machine.stop()
    machine.events.clear()
    machine.boot()
    await machine.until(START + 11)
    assert [(e.sequence, e.outcome) for e in machine.of(Published)] == [(1, PublishOutcome.UNCHANGED)]
    assert machine.target.tries > 3


def test_lost_journal_continues_above_highest_target() -> None:
    async def main() -> None:
        machine = AuthorityHarness()
        lost, _ = running()
        for epoch in range(EPOCH + 1, EPOCH + 4):
            lost.prepare(epoch, PLAYGROUND.clock.prepare_at(epoch))
        newest = lost.history.newest
        assert newest is not None
        machine.target.bundle = newest.bundle
        machine.began = START + 62
        machine.boot()
        await machine.settle()
        assert [(e.sequence, e.epoch - EPOCH) for e in machine.of(Prepared)] == [(5, 3)]
        assert machine.target.sequence == 5
        statement = statement_of(machine.target.bundle)
        assert statement.previous == newest.digest
        carried = {anchor.sha256 for anchor in statement.intermediates}
        assert {anchor.sha256 for anchor in newest.statement.intermediates} < carried
        assert [e.opening for e in machine.of(Activated)] == [Opening.BOOTSTRAP]
        await machine.stop()

    virtual_time.run(main())


def test_target_found_ahead_is_caught_up_with() -> None:
    async def main() -> None:
        machine = AuthorityHarness()
        lost, _ = running()
        for _ in range(3):
            lost.prepare(EPOCH, START + 1, Cause.FORCED)
        newest = lost.history.newest
        assert newest is not None
        ahead = MemoryPublisher("broker", is_down=True, bundle=newest.bundle)
        machine.publishers.append(ahead)
        machine.boot()
        await machine.until(START + 2)
        assert machine.target.sequence == 1
        ahead.is_down = False
        await machine.until(START + 9)
        assert [(e.sequence, e.epoch) for e in machine.of(Prepared)] == [(1, EPOCH), (5, EPOCH)]
        assert (machine.target.sequence, ahead.sequence) == (5, 5)
        trusted = {anchor.sha256 for anchor in machine.journal_store.history.statements[-1].statement.intermediates}
        assert {anchor.sha256 for anchor in newest.statement.intermediates} < trusted
        assert {ca.sha256 for ca in machine.journal_store.history.cas} == trusted
        await machine.stop()

    virtual_time.run(main())


def test_statement_signed_by_stranger_is_reported_and_overwritten() -> None:
    async def main() -> None:
        stranger = JournalBuilder(signer=Signer.generate(f"{DOMAIN}/stranger"))
        stranger.prepare(EPOCH, START)
        stranger.prepare(EPOCH, START)
        forged = stranger.history.newest
        assert forged is not None
        machine = AuthorityHarness()
        machine.target.bundle = forged.bundle
        machine.boot()
        await machine.settle()
        (failed,) = machine.of(StepFailed)
        assert (failed.step, failed.target) == (Step.RESUME, "mounts")
        assert "signature" in failed.error
        assert [e.sequence for e in machine.of(Prepared)] == [1]
        await machine.stop()

    virtual_time.run(main())


@alive
async def test_an_outage_longer_than_v_recovers_by_itself(machine: AuthorityHarness) -> None:
    await machine.until(START + 25)
    await machine.stop()
    await asyncio.sleep(500)
    machine.boot()
    await machine.settle()
    epoch = PLAYGROUND.clock.epoch_at(machine.now())
    assert [(e.epoch, e.opening) for e in machine.of(Activated)][2:] == [(epoch, Opening.BOOTSTRAP)]
    await machine.sleep(40)
    assert [e.opening for e in machine.of(Activated)][3:] == [Opening.GATE, Opening.GATE]


@alive
async def test_issuer_outage_delays_rotation_and_ends_by_itself(machine: AuthorityHarness) -> None:
    await machine.until(START + 11)
    machine.issuer.is_down = True
    await machine.until(START + 30)
    failures = machine.of(StepFailed, lambda e: e.step is Step.PREPARE)
    assert len(failures) > 3
    assert Step.PREPARE in machine.rotation.failures
    machine.issuer.is_down = False
    await machine.until(START + 36)
    assert [(e.sequence, e.epoch - EPOCH) for e in machine.of(Prepared)] == [(1, 0), (2, 1), (3, 2)]
    assert machine.rotation.failures == {}


@alive
async def test_a_journal_that_is_down_stops_everything_until_it_is_back(machine: AuthorityHarness) -> None:
    await machine.until(START + 11)
    machine.journal.is_down = True
    await machine.until(START + 30)
    assert machine.target.sequence == 1
    assert Step.JOURNAL in machine.rotation.failures
    machine.rotation.wake()
    await machine.settle()
    assert len(machine.of(StepFailed, lambda e: e.step is Step.JOURNAL)) < 10
    machine.journal.is_down = False
    await machine.until(START + 37)
    assert machine.target.sequence == 3


@alive
async def test_append_conflict_is_decided_anew_and_its_ca_deleted(
    machine: AuthorityHarness,
) -> None:
    await machine.until(START + 11)
    sign = machine.signer.sign

    async def overtaken(text: str) -> object:
        """While we sign, another authority commits a CA of this epoch."""
        machine.signer.sign = sign  # type: ignore[method-assign]  # once
        other = JournalBuilder(entries=[], history=machine.journal_store.history)
        ca = other.prepare(EPOCH, PREPARED, Cause.FORCED)
        machine.issuer.cas[ca.ca_id] = CaPair(ca.certificate, ec.generate_private_key(ec.SECP256R1()))
        machine.journal.put(other.entries[0].record)
        return await sign(text)

    machine.signer.sign = overtaken  # type: ignore[method-assign, assignment]  # a slow signer
    await machine.until(START + 15)
    (conflict,) = machine.of(AppendConflict)
    assert conflict.step is Step.PREPARE
    assert [e.sequence for e in machine.of(Prepared)] == [1, 3]
    assert machine.target.sequence == 3
    assert set(machine.issuer.cas) == {f"epoch-{EPOCH}-1", f"epoch-{EPOCH}-2", f"epoch-{EPOCH + 1}-3"}
    assert [(e.intents, e.orphans) for e in machine.of(Retired)] == [((f"epoch-{EPOCH + 1}-2",), True)]


@alive
async def test_orphans_of_a_crash_are_deleted_once_no_statement_can_name_them(
    machine: AuthorityHarness,
) -> None:
    await machine.settle()
    await machine.stop()
    for left in ("epoch-5-1", "epoch-5-2"):
        machine.issuer.cas[left] = machine.issuer.cas[f"epoch-{EPOCH}-1"]
    machine.boot()
    await machine.settle()
    assert set(machine.issuer.cas) == {f"epoch-{EPOCH}-1", "epoch-5-2"}
    await machine.until(PREPARED + 1)
    assert set(machine.issuer.cas) == {f"epoch-{EPOCH}-1", f"epoch-{EPOCH + 1}-2"}


@alive
async def test_lost_ca_is_reported_and_replaced(machine: AuthorityHarness) -> None:
    await machine.until(PREPARED + 1)
    del machine.issuer.cas[f"epoch-{EPOCH + 1}-2"]
    await machine.until(START + 25)
    (failed,) = machine.of(StepFailed)
    assert (failed.step, failed.target) == (Step.INSPECT, f"epoch-{EPOCH + 1}-2")
    assert machine.issuer.active == f"epoch-{EPOCH + 1}-3"
    assert [e.sequence for e in machine.of(Prepared)] == [1, 2, 3]
    assert [e.opening for e in machine.of(Activated)] == [Opening.BOOTSTRAP, Opening.GATE]


@alive
async def test_default_issuer_changed_by_others_is_set_again(machine: AuthorityHarness) -> None:
    await machine.until(START + 21)
    machine.issuer.active = f"epoch-{EPOCH}-1"  # as one that was paused before it told the issuer so
    await machine.until(START + 27)
    assert machine.issuer.active == f"epoch-{EPOCH + 1}-2"


@alive
async def test_statement_signed_by_unknown_key_is_never_committed(machine: AuthorityHarness) -> None:
    await machine.until(START + 11)
    machine.signer.signers = (Signer.generate(f"{DOMAIN}/b"),)
    await machine.until(START + 19)
    assert machine.journal_store.history.next_sequence == 2
    assert all("signature" in e.error for e in machine.of(StepFailed, lambda e: e.step is Step.PREPARE))
    assert machine.of(StepFailed)
    assert machine.target.sequence == 1


@alive
async def test_forced_rotation_is_activated_once_proven_also_twice_in_an_epoch(
    machine: AuthorityHarness,
) -> None:
    await machine.until(START + 3)
    for second, sequence in ((3, 2), (6, 3)):
        await machine.until(START + second)
        statement = await machine.rotation.commands.rotate("ada", "a key may have leaked")
        assert (statement.sequence, statement.cause, statement.epoch) == (sequence, Cause.FORCED, EPOCH)
        await machine.settle()
        machine.rotation.wake()
        await machine.settle()
        assert machine.issuer.active == f"epoch-{EPOCH}-{sequence}"
    await machine.until(START + 13)
    statement = await machine.rotation.commands.rotate("ada", "again")
    assert (statement.sequence, statement.epoch) == (5, EPOCH + 1)
    record = machine.journal.records[machine.journal.last]
    assert isinstance(record, StatementRecord)
    assert (record.who, record.reason) == ("ada", "again")
    await machine.until(START + 25)
    assert [e.opening for e in machine.of(Activated)] == [Opening.BOOTSTRAP, *[Opening.GATE] * 3]
    assert machine.issuer.active == f"epoch-{EPOCH + 1}-5"


def test_forced_rotation_that_overfills_bundles_is_refused_before_issue() -> None:
    async def main() -> None:
        machine = AuthorityHarness(proving=False)
        machine.boot()
        await machine.settle()
        full = JournalBuilder(history=machine.journal_store.history)
        full.entries.extend(machine.journal_store.history.entries)
        for _ in range(58):
            full.prepare(EPOCH, START, Cause.FORCED)
            machine.journal.put(full.entries[-1].record)
        with pytest.raises(RotationRefused, match="at most 64 certificates"):
            await machine.rotation.commands.rotate("ada", "practice")
        assert set(machine.issuer.cas) == {f"epoch-{EPOCH}-1"}
        assert machine.journal.last == full.history.head
        await machine.stop()

    virtual_time.run(main())


@dataclass
class LaggingJournal(MemoryJournal):
    """One whose reads are answered by a standby that learns of each record ``lag`` seconds late."""

    lag: float = 0.5
    seen: int = 0

    async def read(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in await super().read() if entry.position <= self.seen)

    async def head(self) -> int:
        return self.seen

    def put(self, record: Record) -> None:
        super().put(record)
        asyncio.get_running_loop().call_later(self.lag, self._learn, self.last)

    def _learn(self, position: int) -> None:
        self.seen = position


def test_lagging_journal_reads_lose_no_ca() -> None:
    """OpenBao's standbys answer reads, a moment late: what was just appended must not look like an orphan."""

    async def main() -> None:
        machine = AuthorityHarness()
        machine.journal = LaggingJournal(machine.effects)
        machine.boot()
        await machine.until(START + 5)
        await machine.rotation.commands.rotate("ada", "a key may have leaked")
        await machine.until(START + 45)
        assert set(machine.issuer.cas) == {ca.ca_id for ca in machine.rotation.history.cas}
        assert machine.issuer.active == f"epoch-{EPOCH + 2}-4"
        assert (machine.of(AppendConflict), machine.of(StepFailed)) == ([], [])
        await machine.stop()

    virtual_time.run(main())


@alive
async def test_failed_forced_rotation_is_refused_and_leaves_no_ca_behind(
    machine: AuthorityHarness,
) -> None:
    await machine.until(START + 3)
    machine.signer.signers = (Signer.generate(f"{DOMAIN}/b"),)
    with pytest.raises(RotationRefused, match=r"signature.*; try again"):
        await machine.rotation.commands.rotate("ada", "a key may have leaked")
    machine.issuer.is_down = True
    with pytest.raises(RotationRefused, match="issuer: down; try again"):
        await machine.rotation.commands.rotate("ada", "a key may have leaked")
    machine.issuer.is_down, machine.signer.signers = False, (SIGNER,)
    await machine.until(START + 20)
    assert set(machine.issuer.cas) == {f"epoch-{EPOCH}-1", f"epoch-{EPOCH + 1}-2"}


def test_waiting_command_is_refused_when_authority_stops() -> None:
    async def main() -> None:
        machine = AuthorityHarness()
        machine.boot()
        await machine.settle()
        machine.journal.is_down = True
        waiting = asyncio.create_task(machine.rotation.commands.rotate("ada", "now"))
        gone = asyncio.create_task(machine.rotation.commands.rotate("bob", "never mind"))
        await machine.settle()
        gone.cancel()
        await machine.stop()
        with pytest.raises(RotationRefused, match="expected this replica to lead, found that it stops; try again"):
            await waiting
        assert machine.journal_store.history.next_sequence == 2

    virtual_time.run(main())


@alive
async def test_command_that_timed_out_in_the_queue_is_not_run_later(machine: AuthorityHarness) -> None:
    await machine.settle()
    machine.journal.is_down = True
    with pytest.raises(TimeoutError, match="expected its turn within 20 s, found none: it is withdrawn, nothing"):
        await machine.rotation.commands.rotate("ada", "a key may have leaked")
    machine.journal.is_down = False
    await machine.until(START + 65)
    assert [e.cause for e in machine.of(Prepared)] == [Cause.ROTATION] * 4


@alive
async def test_timeout_of_running_command_says_that_it_may_be_done(
    machine: AuthorityHarness,
) -> None:
    await machine.settle()
    machine.effects.strike = Strike(len(machine.effects.names) + 2, When.BEFORE, How.PAUSE)  # issued, signed
    with pytest.raises(TimeoutError, match="within 20 s, found it still under way: it may be done yet, so look at"):
        await machine.rotation.commands.rotate("ada", "a key may have leaked")
    assert machine.effects.paused.is_set()
    assert machine.journal_store.history.next_sequence == 2
    machine.effects.resumed.set()
    await machine.settle()
    assert [e.cause for e in machine.of(Prepared)][:2] == [Cause.ROTATION, Cause.FORCED]


def test_an_override_opens_the_gate_and_is_recorded_with_its_reason() -> None:
    async def main() -> None:
        machine = AuthorityHarness(proving=False)
        machine.boot()
        await machine.settle()
        with pytest.raises(RotationRefused, match="expected a CA that waits for its gate"):
            await machine.rotation.commands.override("ada", "impatience")
        await machine.until(START + 25)
        ca = await machine.rotation.commands.override("ada", "nats-0 is being replaced")
        await machine.settle()
        assert [(e.epoch, e.who, e.reason) for e in machine.of(GateOverridden)] == [
            (EPOCH + 1, "ada", "nats-0 is being replaced")
        ]
        activated = machine.of(Activated)[-1]
        assert (activated.ca, activated.opening, activated.unproven) == (ca.sha256, Opening.OVERRIDE, ("nats-0",))
        await machine.stop()

    virtual_time.run(main())


@alive
async def test_over_many_epochs_old_cas_are_retired_and_the_journal_stays_small(machine: AuthorityHarness) -> None:
    await machine.until(START + 20 * 40)
    assert 5 <= len(machine.issuer.cas) <= 8
    assert len(machine.journal.records) < 40
    assert machine.journal.last > 80
    history = replay(await machine.journal.read())
    assert {ca.ca_id for ca in history.cas if ca.ca_id} >= set(machine.issuer.cas)
    await machine.stop()
    machine.events.clear()
    machine.boot()
    await machine.until(START + 20 * 42 - 5)
    assert [e.opening for e in machine.of(Activated)] == [Opening.GATE]
    assert not machine.of(Retired, lambda e: e.orphans)


@pytest.mark.parametrize(("before", "after"), [("playground", "testing"), ("testing", "playground")])
def test_another_epoch_length_takes_over_without_a_gap(before: str, after: str) -> None:
    async def main() -> None:
        machine = AuthorityHarness(timing=PRESETS[before])
        machine.boot()
        await machine.sleep(PRESETS[before].clock.epoch_seconds * 2)
        await machine.stop()
        machine.timing = PRESETS[after]
        machine.events.clear()
        machine.boot()
        await machine.sleep(1)
        machine.rotation.wake()
        await machine.settle()
        first = machine.of(Activated)[0]
        assert (first.opening, first.epoch) == (Opening.GATE, PRESETS[after].clock.epoch_at(machine.now()))
        await machine.sleep(PRESETS[after].clock.epoch_seconds * 6)
        assert {e.opening for e in machine.of(Activated)} == {Opening.GATE}
        assert machine.of(StepFailed) == []
        await machine.stop()

    virtual_time.run(main())


def test_statement_counts_by_old_clock_after_withdrawal_of_new_ca() -> None:
    """The statement then counts by its clock: agents look whether the first CA ends as that says."""

    async def main() -> None:
        machine = AuthorityHarness()
        machine.boot()
        await machine.until(START + 25)
        await machine.stop()
        machine.timing = PRESETS["testing"]
        machine.boot()
        await machine.sleep(1)
        bad = machine.rotation.history.cas[-1]
        assert bad.clock == PRESETS["testing"].clock
        await machine.rotation.commands.withdraw(
            "ada", "it was too early", WithdrawalRequest(Cause.ROLLBACK, bad.sha256, urgent=True)
        )
        await machine.sleep(1)
        (left_out,) = machine.of(AnchorsRemoved)
        statements = {one.statement.sequence: one.statement for one in machine.rotation.history.statements}
        assert statements[left_out.sequence].clock == PLAYGROUND.clock
        assert machine.of(StepFailed) == []
        await machine.stop()

    virtual_time.run(main())


@alive
async def test_replica_that_leads_again_forgets_records_compacted_meanwhile(
    machine: AuthorityHarness,
) -> None:
    """The head stays where it is then, and a fold that names records which are gone could not be read any more."""
    await machine.until(START + 25)
    whole = machine.rotation.history.entries
    machine.journal.put(OverrideRecord(machine.now(), "c" * 64, "ada", "practice"))
    machine.rotation.wake()
    await machine.settle()
    await machine.stop()
    rotation = machine.rotation
    assert rotation.history.head == whole[-1].position + 1
    await machine.journal.compact((whole[0], *whole[2:]), through=whole[-1].position)
    running_again = asyncio.create_task(rotation.run())
    await machine.settle()
    assert whole[1] not in rotation.history.entries
    running_again.cancel()
    await asyncio.gather(running_again, return_exceptions=True)


def test_rotation_works_without_root_in_bundles() -> None:
    async def main() -> None:
        machine = AuthorityHarness(include_root=False)
        machine.boot()
        await machine.until(START + 25)
        assert len(machine.journal_store.history.statements[-1].certificates) == 2
        assert machine.rotation.hold is None
        await machine.stop()

    virtual_time.run(main())


@alive
async def test_view_shows_the_fleet_as_the_plan_sees_it(machine: AuthorityHarness) -> None:
    await machine.until(START + 13)
    view = machine.view(machine.rotation.history, machine.now())
    assert [agent.state for agent in view.agents] == [FleetState.PROVEN]
    records = [type(record) for record in machine.journal.records.values()]
    assert records == [StatementRecord, ActivationRecord, StatementRecord]
