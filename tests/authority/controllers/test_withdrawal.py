"""Withdrawals over a world in memory, in virtual time: from the operator's word to the last proof."""

import pytest

from authority.cli.chain import follow
from authority.journal.history import EpochCa
from authority.journal.record_types import Opening, StatementRecord
from authority.rotation.events import (
    Activated,
    AnchorsRemoved,
    LeafWritten,
    Prepared,
    StepFailed,
    WithdrawalRequested,
    WithdrawalStageReached,
)
from authority.rotation.operator_requests import RotationRefused, WithdrawalRequest
from authority.rotation.withdrawal import WithdrawalStage
from tests.harness.authority.harness import AuthorityHarness, alive, report_of
from tests.harness.authority.journal_builder import EPOCH, START, TRUST
from tests.harness.authority.memory_backends import statement_of
from tidemark.bundle import Cause, Statement
from tidemark.certificates import fingerprint
from tidemark.receipt import LeafReport, PodClass

NEXT = START + 20


def shown(machine: AuthorityHarness) -> Statement:
    """The statement that the mounts show."""
    assert machine.target.bundle is not None
    return statement_of(machine.target.bundle)


def stages(machine: AuthorityHarness) -> list[WithdrawalStage]:
    """The stages that were told, each once."""
    told = [event.stage for event in machine.of(WithdrawalStageReached)]
    return [stage for stage, before in zip(told, [None, *told[:-1]], strict=True) if stage is not before]


async def receipts(machine: AuthorityHarness) -> None:
    """Let every receipt arrive that what is shown leads to."""
    for _ in range(4):
        machine.rotation.wake()
        await machine.settle()


async def roll_back(machine: AuthorityHarness, ca: str = "", *, urgent: bool = False) -> EpochCa:
    wanted = WithdrawalRequest(Cause.ROLLBACK, ca, urgent=urgent)
    return await machine.rotation.commands.withdraw("ada", "nats-2 refuses it", wanted)


async def revoke(machine: AuthorityHarness, ca: str, *, urgent: bool = False) -> EpochCa:
    return await machine.rotation.commands.withdraw(
        "ada", "its key leaked", WithdrawalRequest(Cause.REVOCATION, ca, urgent=urgent)
    )


def ca_of(machine: AuthorityHarness, ca_id: str) -> str:
    return fingerprint(machine.issuer.cas[ca_id].certificate)


FIRST, SECOND = f"epoch-{EPOCH}-1", f"epoch-{EPOCH + 1}-2"


@alive
async def test_a_rollback_of_the_signing_ca_goes_back_to_the_one_before(machine: AuthorityHarness) -> None:
    await machine.until(NEXT + 3)
    before, bad = ca_of(machine, FIRST), ca_of(machine, SECOND)
    ca = await roll_back(machine)
    assert (ca.sha256, ca.epoch) == (bad, EPOCH + 1)
    await machine.until(NEXT + 5)
    (asked,) = machine.of(WithdrawalRequested)
    assert (asked.who, asked.reason, asked.cause, asked.urgent) == (
        "ada",
        "nats-2 refuses it",
        Cause.ROLLBACK,
        False,
    )
    activated = machine.of(Activated)[-1]
    assert (activated.ca, activated.opening, activated.at) == (before, Opening.GATE, NEXT + 3)
    assert machine.issuer.active == FIRST
    (left_out,) = machine.of(AnchorsRemoved)
    assert (left_out.sequence, left_out.cas, left_out.at) == (3, (bad,), NEXT + 3)
    statement = shown(machine)
    assert (statement.cause, statement.epoch, statement.withdrawn) == (Cause.ROLLBACK, EPOCH, (bad,))
    assert [anchor.sha256 for anchor in statement.intermediates] == [before]
    assert statement.next_update == NEXT + 12  # the next epoch's, not the withdrawn one's
    await machine.until(NEXT + 9)
    assert stages(machine) == [WithdrawalStage.DISTRUSTING, WithdrawalStage.DONE]
    assert machine.of(StepFailed) == []


@alive
async def test_the_withdrawn_epoch_is_skipped_until_the_next_one(machine: AuthorityHarness) -> None:
    await machine.until(NEXT + 3)
    bad = ca_of(machine, SECOND)
    await roll_back(machine)
    await machine.until(START + 45)
    assert [e.epoch - EPOCH for e in machine.of(Prepared)] == [0, 1, 2]
    assert [e.epoch - EPOCH for e in machine.of(Activated)] == [0, 1, 0, 2]
    assert bad in shown(machine).withdrawn
    await machine.until(NEXT + 80 + 13)  # the next statement after it has expired
    assert shown(machine).withdrawn == ()
    assert machine.of(StepFailed) == []


@alive
async def test_leaves_are_waited_for_by_name_until_last_resort(
    machine: AuthorityHarness,
) -> None:
    machine.pods.add("orders", PodClass.APPLICATION)
    await machine.until(NEXT + 3)
    assert machine.target.bundle is not None
    bad, old_leaf = ca_of(machine, SECOND), report_of(machine.leaf.leaf, machine.target.bundle)
    machine.on_view = lambda now: prove_with(machine, now, old_leaf)
    await roll_back(machine)
    await machine.until(NEXT + 55)
    told = machine.of(WithdrawalStageReached)[-1]
    assert (told.stage, told.waiting, told.until) == (WithdrawalStage.REISSUING, ("orders",), NEXT + 60)
    assert machine.of(AnchorsRemoved) == []
    assert bad in {anchor.sha256 for anchor in shown(machine).intermediates}
    await machine.until(NEXT + 61)
    assert [e.at for e in machine.of(AnchorsRemoved)] == [NEXT + 60]
    assert [e.epoch - EPOCH for e in machine.of(Activated)] == [0, 1, 0, 2, 3, 4]  # rotation went on meanwhile


def prove_with(machine: AuthorityHarness, now: int, orders: LeafReport | None) -> None:
    """Every agent proves what is shown, but 'orders' goes on with this leaf."""
    machine.report(now)
    machine.pods.prove("orders", machine.pods_mark(), now, orders)


@alive
async def test_a_closed_gate_holds_a_revocation_until_the_last_resort(machine: AuthorityHarness) -> None:
    await machine.until(START + 3)
    machine.proving = False
    bad = ca_of(machine, FIRST)
    await revoke(machine, bad[:8])
    await machine.until(START + 4)
    (prepared,) = machine.of(Prepared, lambda e: e.cause is Cause.FORCED)
    assert prepared.epoch == EPOCH
    assert stages(machine) == [WithdrawalStage.TRUSTING]
    told = machine.of(WithdrawalStageReached)[-1]
    assert (told.replacement, told.waiting, told.until) == (prepared.ca, ("nats-0",), START + 60)
    await machine.until(START + 59)
    assert [e.opening for e in machine.of(Activated)] == [Opening.BOOTSTRAP]
    await machine.until(START + 61)
    last = machine.of(Activated)[-1]
    assert (last.opening, last.epoch, last.unproven) == (Opening.LAST_RESORT, EPOCH + 3, ("nats-0",))
    await machine.until(START + 69)
    assert [e.at for e in machine.of(AnchorsRemoved)] == [START + 68]  # P after the activation
    assert shown(machine).withdrawn == (bad,)


@alive
async def test_a_revocation_of_the_signing_ca_makes_a_new_one_of_the_same_epoch(machine: AuthorityHarness) -> None:
    await machine.until(START + 3)
    bad = ca_of(machine, FIRST)
    await revoke(machine, str(EPOCH))
    await receipts(machine)
    assert [(e.cause, e.epoch) for e in machine.of(Prepared)] == [(Cause.ROTATION, EPOCH), (Cause.FORCED, EPOCH)]
    new = machine.of(Prepared)[-1].ca
    assert [(e.ca, e.opening) for e in machine.of(Activated)] == [(bad, Opening.BOOTSTRAP), (new, Opening.GATE)]
    statement = shown(machine)
    assert (statement.cause, statement.sequence, statement.withdrawn) == (Cause.REVOCATION, 3, (bad,))
    assert [anchor.sha256 for anchor in statement.intermediates] == [new]
    record = machine.journal.records[machine.journal.last]
    assert isinstance(record, StatementRecord)
    assert (record.who, record.reason) == ("ada", "its key leaked")


@alive
async def test_an_urgent_revocation_brings_its_replacement_in_the_same_statement(machine: AuthorityHarness) -> None:
    await machine.until(START + 3)
    machine.proving = False
    bad = ca_of(machine, FIRST)
    await revoke(machine, bad, urgent=True)
    await machine.until(START + 4)
    statement = shown(machine)
    assert (statement.cause, statement.sequence, statement.withdrawn) == (Cause.REVOCATION, 2, (bad,))
    activated = machine.of(Activated)[-1]
    assert (activated.ca, activated.opening) == (statement.anchors[0].sha256, Opening.OVERRIDE)
    assert activated.unproven == ("nats-0",)
    assert machine.of(LeafWritten)[-1].ca == activated.ca
    assert stages(machine) == [WithdrawalStage.DISTRUSTING]
    machine.proving = True
    await machine.until(START + 9)
    assert stages(machine) == [WithdrawalStage.DISTRUSTING, WithdrawalStage.DONE]


@alive
async def test_urgent_rollback_activates_unproven_older_ca(
    machine: AuthorityHarness,
) -> None:
    await machine.until(NEXT + 3)
    machine.proving = False
    before, bad = ca_of(machine, FIRST), ca_of(machine, SECOND)
    await machine.until(NEXT + 19)
    await machine.until(NEXT + 24)  # receipts are stale
    await roll_back(machine, bad, urgent=True)
    await machine.until(NEXT + 25)
    last = machine.of(Activated)[-1]
    assert (last.ca, last.opening, last.at) == (before, Opening.OVERRIDE, NEXT + 24)
    assert shown(machine).withdrawn == (bad,)


@alive
async def test_of_a_ca_that_is_not_signing_the_signing_one_is_the_replacement(machine: AuthorityHarness) -> None:
    await machine.until(NEXT - 3)
    newest = ca_of(machine, SECOND)
    await roll_back(machine)
    await machine.settle()
    assert shown(machine).withdrawn == (newest,)  # it never signed: there is no leaf to wait for
    assert len(machine.of(Activated)) == 1
    await machine.until(NEXT + 13)
    assert [e.epoch - EPOCH for e in machine.of(Prepared)] == [0, 1, 2]
    assert len(machine.of(Activated)) == 1


@alive
async def test_a_rollback_with_no_older_ca_left_makes_a_new_one(machine: AuthorityHarness) -> None:
    await machine.until(START + 3)
    bad = ca_of(machine, FIRST)
    await roll_back(machine)
    await machine.until(START + 9)
    statement = shown(machine)
    assert (statement.cause, statement.epoch, statement.withdrawn) == (Cause.ROLLBACK, EPOCH, (bad,))
    assert machine.of(Activated)[-1].ca == statement.anchors[0].sha256


@alive
async def test_a_staged_withdrawal_that_is_stuck_is_made_urgent(machine: AuthorityHarness) -> None:
    await machine.until(START + 3)
    machine.proving = False
    bad = ca_of(machine, FIRST)
    await revoke(machine, bad)
    await machine.until(START + 5)
    new = machine.of(Prepared)[-1].ca
    with pytest.raises(RotationRefused, match=r"found that the revocation of .* is under way; .*--now"):
        await revoke(machine, bad)
    await roll_back(machine, bad, urgent=True)
    await machine.settle()
    assert shown(machine).cause is Cause.REVOCATION
    assert [anchor.sha256 for anchor in shown(machine).intermediates] == [new]
    assert (machine.of(Activated)[-1].ca, machine.of(Activated)[-1].opening) == (new, Opening.OVERRIDE)
    with pytest.raises(RotationRefused, match="expected a CA that is trusted"):
        await revoke(machine, bad, urgent=True)


@alive
async def test_a_withdrawn_replacement_is_replaced_in_its_turn(machine: AuthorityHarness) -> None:
    await machine.until(START + 3)
    first = ca_of(machine, FIRST)
    machine.proving = False
    await revoke(machine, first)
    await machine.until(START + 5)
    second = machine.of(Prepared)[-1].ca
    await revoke(machine, second)
    await machine.until(START + 7)
    third = machine.of(Prepared)[-1].ca
    assert len({first, second, third}) == 3
    machine.proving = True
    await machine.until(START + 19)
    assert [e.ca for e in machine.of(Activated)] == [first, third]
    assert set(shown(machine).withdrawn) == {first, second}


@alive
async def test_reverts_of_more_than_a_third_roll_the_newest_ca_back_unasked(machine: AuthorityHarness) -> None:
    for name in ("nats-1", "nats-2"):
        machine.pods.add(name)
    await machine.until(NEXT - 9)
    good = machine.pods_mark()
    refusing = {"nats-0"}

    def report(now: int) -> None:
        for pod in machine.pods.expected:
            mark = machine.pods_mark()
            if pod.name in refusing and mark.sequence == 2:
                machine.pods.revert(pod.name, mark, good, now)
            else:
                machine.pods.prove(pod.name, mark, now)

    machine.on_view = report
    await machine.until(NEXT - 4)
    assert machine.of(WithdrawalRequested) == []
    refusing.add("nats-1")
    machine.rotation.wake()
    await machine.settle()
    (asked,) = machine.of(WithdrawalRequested)
    assert (asked.who, asked.reason) == ("", "2 of 3 required agents have put statement 2 back")
    assert shown(machine).withdrawn == (ca_of(machine, SECOND),)
    assert shown(machine).cause is Cause.ROLLBACK
    await machine.until(NEXT + 25)
    assert [e.epoch - EPOCH for e in machine.of(Activated)] == [0, 2]


@alive
async def test_recovery_after_journal_loss_keeps_withdrawn_cas_out(machine: AuthorityHarness) -> None:
    await machine.until(NEXT + 3)
    bad = ca_of(machine, SECOND)
    await roll_back(machine)
    await machine.until(NEXT + 9)
    assert shown(machine).withdrawn == (bad,)
    await machine.stop()
    machine.journal.records, machine.journal.last = {}, 0
    machine.boot()
    await machine.settle()
    assert shown(machine).sequence == 4
    assert shown(machine).withdrawn == (bad,)
    assert bad not in {anchor.sha256 for anchor in shown(machine).anchors}
    await machine.until(NEXT + 30)
    assert bad in shown(machine).withdrawn
    assert machine.of(StepFailed) == []


@alive
async def test_authority_stopped_during_withdrawal_completes_it(machine: AuthorityHarness) -> None:
    await machine.until(START + 3)
    bad = ca_of(machine, FIRST)
    machine.proving = False
    await revoke(machine, bad)
    await machine.settle()
    await machine.stop()
    machine.boot()
    await machine.until(START + 6)
    assert stages(machine)[-1] is WithdrawalStage.TRUSTING
    machine.proving = True
    await receipts(machine)
    assert shown(machine).withdrawn == (bad,)


@alive
async def test_chain_of_compacted_journal_can_be_followed(machine: AuthorityHarness) -> None:
    """Of a CA withdrawn before its epoch the first statement is needed longer than the one that leaves it out."""
    followed: set[int] = set()
    for second in range(20 * 20):
        await machine.until(START + second)
        if second % 40 == 15:
            await roll_back(machine)
        held = {signed.statement.sequence: signed.bundle for signed in machine.journal_store.history.statements}
        if held.keys() != followed:
            followed = set(held)
            assert follow({f"{sequence}": bundle for sequence, bundle in held.items()}, TRUST).faults == ()
    assert min(followed) > 1, "nothing was folded away"
    assert machine.of(StepFailed) == []
