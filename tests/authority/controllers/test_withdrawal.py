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


def shown(harness: AuthorityHarness) -> Statement:
    """The statement that the mounts show."""
    assert harness.target.bundle is not None
    return statement_of(harness.target.bundle)


def stages(harness: AuthorityHarness) -> list[WithdrawalStage]:
    """The stages that were told, each once."""
    reached = [event.stage for event in harness.of(WithdrawalStageReached)]
    return [stage for stage, before in zip(reached, [None, *reached[:-1]], strict=True) if stage is not before]


async def receipts(harness: AuthorityHarness) -> None:
    """Let every receipt arrive that what is shown leads to."""
    for _ in range(4):
        harness.rotation.wake()
        await harness.settle()


async def roll_back(harness: AuthorityHarness, ca: str = "", *, urgent: bool = False) -> EpochCa:
    wanted = WithdrawalRequest(Cause.ROLLBACK, ca, urgent=urgent)
    return await harness.rotation.commands.withdraw("ada", "nats-2 refuses it", wanted)


async def revoke(harness: AuthorityHarness, ca: str, *, urgent: bool = False) -> EpochCa:
    return await harness.rotation.commands.withdraw(
        "ada", "its key leaked", WithdrawalRequest(Cause.REVOCATION, ca, urgent=urgent)
    )


def ca_of(harness: AuthorityHarness, ca_id: str) -> str:
    return fingerprint(harness.issuer.cas[ca_id].certificate)


FIRST, SECOND = f"epoch-{EPOCH}-1", f"epoch-{EPOCH + 1}-2"


@alive
async def test_a_rollback_of_the_signing_ca_goes_back_to_the_one_before(harness: AuthorityHarness) -> None:
    await harness.until(NEXT + 3)
    before, bad = ca_of(harness, FIRST), ca_of(harness, SECOND)
    ca = await roll_back(harness)
    assert (ca.sha256, ca.epoch) == (bad, EPOCH + 1)
    await harness.until(NEXT + 5)
    (asked,) = harness.of(WithdrawalRequested)
    assert (asked.who, asked.reason, asked.cause, asked.urgent) == (
        "ada",
        "nats-2 refuses it",
        Cause.ROLLBACK,
        False,
    )
    activated = harness.of(Activated)[-1]
    assert (activated.ca, activated.opening, activated.at) == (before, Opening.GATE, NEXT + 3)
    assert harness.issuer.active == FIRST
    (left_out,) = harness.of(AnchorsRemoved)
    assert (left_out.sequence, left_out.cas, left_out.at) == (3, (bad,), NEXT + 3)
    statement = shown(harness)
    assert (statement.cause, statement.epoch, statement.withdrawn) == (Cause.ROLLBACK, EPOCH, (bad,))
    assert [anchor.sha256 for anchor in statement.intermediates] == [before]
    assert statement.next_update == NEXT + 12  # the next epoch's, not the withdrawn one's
    await harness.until(NEXT + 9)
    assert stages(harness) == [WithdrawalStage.DISTRUSTING, WithdrawalStage.DONE]
    assert harness.of(StepFailed) == []


@alive
async def test_the_withdrawn_epoch_is_skipped_until_the_next_one(harness: AuthorityHarness) -> None:
    await harness.until(NEXT + 3)
    bad = ca_of(harness, SECOND)
    await roll_back(harness)
    await harness.until(START + 45)
    assert [e.epoch - EPOCH for e in harness.of(Prepared)] == [0, 1, 2]
    assert [e.epoch - EPOCH for e in harness.of(Activated)] == [0, 1, 0, 2]
    assert bad in shown(harness).withdrawn
    await harness.until(NEXT + 80 + 13)  # the next statement after it has expired
    assert shown(harness).withdrawn == ()
    assert harness.of(StepFailed) == []


@alive
async def test_leaves_are_waited_for_by_name_until_last_resort(
    harness: AuthorityHarness,
) -> None:
    harness.pods.add("orders", PodClass.APPLICATION)
    await harness.until(NEXT + 3)
    assert harness.target.bundle is not None
    bad, old_leaf = ca_of(harness, SECOND), report_of(harness.leaf.leaf, harness.target.bundle)
    harness.on_view = lambda now: prove_with(harness, now, old_leaf)
    await roll_back(harness)
    await harness.until(NEXT + 55)
    reached = harness.of(WithdrawalStageReached)[-1]
    assert (reached.stage, reached.waiting, reached.until) == (WithdrawalStage.REISSUING, ("orders",), NEXT + 60)
    assert harness.of(AnchorsRemoved) == []
    assert bad in {anchor.sha256 for anchor in shown(harness).intermediates}
    await harness.until(NEXT + 61)
    assert [e.at for e in harness.of(AnchorsRemoved)] == [NEXT + 60]
    assert [e.epoch - EPOCH for e in harness.of(Activated)] == [0, 1, 0, 2, 3, 4]  # rotation went on meanwhile


def prove_with(harness: AuthorityHarness, now: int, orders: LeafReport | None) -> None:
    """Every agent proves what is shown, but 'orders' goes on with this leaf."""
    harness.report(now)
    harness.pods.prove("orders", harness.pods_mark(), now, orders)


@alive
async def test_a_closed_gate_holds_a_revocation_until_the_last_resort(harness: AuthorityHarness) -> None:
    await harness.until(START + 3)
    harness.proving = False
    bad = ca_of(harness, FIRST)
    await revoke(harness, bad[:8])
    await harness.until(START + 4)
    (prepared,) = harness.of(Prepared, lambda e: e.cause is Cause.FORCED)
    assert prepared.epoch == EPOCH
    assert stages(harness) == [WithdrawalStage.TRUSTING]
    reached = harness.of(WithdrawalStageReached)[-1]
    assert (reached.replacement, reached.waiting, reached.until) == (prepared.ca, ("nats-0",), START + 60)
    await harness.until(START + 59)
    assert [e.opening for e in harness.of(Activated)] == [Opening.BOOTSTRAP]
    await harness.until(START + 61)
    last = harness.of(Activated)[-1]
    assert (last.opening, last.epoch, last.unproven) == (Opening.LAST_RESORT, EPOCH + 3, ("nats-0",))
    await harness.until(START + 69)
    assert [e.at for e in harness.of(AnchorsRemoved)] == [START + 68]  # P after the activation
    assert shown(harness).withdrawn == (bad,)


@alive
async def test_a_revocation_of_the_signing_ca_makes_a_new_one_of_the_same_epoch(harness: AuthorityHarness) -> None:
    await harness.until(START + 3)
    bad = ca_of(harness, FIRST)
    await revoke(harness, str(EPOCH))
    await receipts(harness)
    assert [(e.cause, e.epoch) for e in harness.of(Prepared)] == [(Cause.ROTATION, EPOCH), (Cause.FORCED, EPOCH)]
    new = harness.of(Prepared)[-1].ca
    assert [(e.ca, e.opening) for e in harness.of(Activated)] == [(bad, Opening.BOOTSTRAP), (new, Opening.GATE)]
    statement = shown(harness)
    assert (statement.cause, statement.sequence, statement.withdrawn) == (Cause.REVOCATION, 3, (bad,))
    assert [anchor.sha256 for anchor in statement.intermediates] == [new]
    record = harness.journal.records[harness.journal.last]
    assert isinstance(record, StatementRecord)
    assert (record.who, record.reason) == ("ada", "its key leaked")


@alive
async def test_an_urgent_revocation_brings_its_replacement_in_the_same_statement(harness: AuthorityHarness) -> None:
    await harness.until(START + 3)
    harness.proving = False
    bad = ca_of(harness, FIRST)
    await revoke(harness, bad, urgent=True)
    await harness.until(START + 4)
    statement = shown(harness)
    assert (statement.cause, statement.sequence, statement.withdrawn) == (Cause.REVOCATION, 2, (bad,))
    activated = harness.of(Activated)[-1]
    assert (activated.ca, activated.opening) == (statement.anchors[0].sha256, Opening.OVERRIDE)
    assert activated.unproven == ("nats-0",)
    assert harness.of(LeafWritten)[-1].ca == activated.ca
    assert stages(harness) == [WithdrawalStage.DISTRUSTING]
    harness.proving = True
    await harness.until(START + 9)
    assert stages(harness) == [WithdrawalStage.DISTRUSTING, WithdrawalStage.DONE]


@alive
async def test_urgent_rollback_activates_unproven_older_ca(
    harness: AuthorityHarness,
) -> None:
    await harness.until(NEXT + 3)
    harness.proving = False
    before, bad = ca_of(harness, FIRST), ca_of(harness, SECOND)
    await harness.until(NEXT + 19)
    await harness.until(NEXT + 24)  # receipts are stale
    await roll_back(harness, bad, urgent=True)
    await harness.until(NEXT + 25)
    last = harness.of(Activated)[-1]
    assert (last.ca, last.opening, last.at) == (before, Opening.OVERRIDE, NEXT + 24)
    assert shown(harness).withdrawn == (bad,)


@alive
async def test_of_a_ca_that_is_not_signing_the_signing_one_is_the_replacement(harness: AuthorityHarness) -> None:
    await harness.until(NEXT - 3)
    newest = ca_of(harness, SECOND)
    await roll_back(harness)
    await harness.settle()
    assert shown(harness).withdrawn == (newest,)  # it never signed: there is no leaf to wait for
    assert len(harness.of(Activated)) == 1
    await harness.until(NEXT + 13)
    assert [e.epoch - EPOCH for e in harness.of(Prepared)] == [0, 1, 2]
    assert len(harness.of(Activated)) == 1


@alive
async def test_a_rollback_with_no_older_ca_left_makes_a_new_one(harness: AuthorityHarness) -> None:
    await harness.until(START + 3)
    bad = ca_of(harness, FIRST)
    await roll_back(harness)
    await harness.until(START + 9)
    statement = shown(harness)
    assert (statement.cause, statement.epoch, statement.withdrawn) == (Cause.ROLLBACK, EPOCH, (bad,))
    assert harness.of(Activated)[-1].ca == statement.anchors[0].sha256


@alive
async def test_a_staged_withdrawal_that_is_stuck_is_made_urgent(harness: AuthorityHarness) -> None:
    await harness.until(START + 3)
    harness.proving = False
    bad = ca_of(harness, FIRST)
    await revoke(harness, bad)
    await harness.until(START + 5)
    new = harness.of(Prepared)[-1].ca
    with pytest.raises(RotationRefused, match=r"found that the revocation of .* is under way; .*--now"):
        await revoke(harness, bad)
    await roll_back(harness, bad, urgent=True)
    await harness.settle()
    assert shown(harness).cause is Cause.REVOCATION
    assert [anchor.sha256 for anchor in shown(harness).intermediates] == [new]
    assert (harness.of(Activated)[-1].ca, harness.of(Activated)[-1].opening) == (new, Opening.OVERRIDE)
    with pytest.raises(RotationRefused, match="expected a CA that is trusted"):
        await revoke(harness, bad, urgent=True)


@alive
async def test_a_withdrawn_replacement_is_replaced_in_its_turn(harness: AuthorityHarness) -> None:
    await harness.until(START + 3)
    first = ca_of(harness, FIRST)
    harness.proving = False
    await revoke(harness, first)
    await harness.until(START + 5)
    second = harness.of(Prepared)[-1].ca
    await revoke(harness, second)
    await harness.until(START + 7)
    third = harness.of(Prepared)[-1].ca
    assert len({first, second, third}) == 3
    harness.proving = True
    await harness.until(START + 19)
    assert [e.ca for e in harness.of(Activated)] == [first, third]
    assert set(shown(harness).withdrawn) == {first, second}


@alive
async def test_reverts_of_more_than_a_third_roll_the_newest_ca_back_unasked(harness: AuthorityHarness) -> None:
    for name in ("nats-1", "nats-2"):
        harness.pods.add(name)
    await harness.until(NEXT - 9)
    good = harness.pods_mark()
    refusing = {"nats-0"}

    def report(now: int) -> None:
        for pod in harness.pods.expected:
            mark = harness.pods_mark()
            if pod.name in refusing and mark.sequence == 2:
                harness.pods.revert(pod.name, mark, good, now)
            else:
                harness.pods.prove(pod.name, mark, now)

    harness.on_view = report
    await harness.until(NEXT - 4)
    assert harness.of(WithdrawalRequested) == []
    refusing.add("nats-1")
    harness.rotation.wake()
    await harness.settle()
    (asked,) = harness.of(WithdrawalRequested)
    assert (asked.who, asked.reason) == ("", "2 of 3 required agents have put statement 2 back")
    assert shown(harness).withdrawn == (ca_of(harness, SECOND),)
    assert shown(harness).cause is Cause.ROLLBACK
    await harness.until(NEXT + 25)
    assert [e.epoch - EPOCH for e in harness.of(Activated)] == [0, 2]


@alive
async def test_recovery_after_journal_loss_keeps_withdrawn_cas_out(harness: AuthorityHarness) -> None:
    await harness.until(NEXT + 3)
    bad = ca_of(harness, SECOND)
    await roll_back(harness)
    await harness.until(NEXT + 9)
    assert shown(harness).withdrawn == (bad,)
    await harness.stop()
    harness.journal.records, harness.journal.last = {}, 0
    harness.boot()
    await harness.settle()
    assert shown(harness).sequence == 4
    assert shown(harness).withdrawn == (bad,)
    assert bad not in {anchor.sha256 for anchor in shown(harness).anchors}
    await harness.until(NEXT + 30)
    assert bad in shown(harness).withdrawn
    assert harness.of(StepFailed) == []


@alive
async def test_authority_stopped_during_withdrawal_completes_it(harness: AuthorityHarness) -> None:
    await harness.until(START + 3)
    bad = ca_of(harness, FIRST)
    harness.proving = False
    await revoke(harness, bad)
    await harness.settle()
    await harness.stop()
    harness.boot()
    await harness.until(START + 6)
    assert stages(harness)[-1] is WithdrawalStage.TRUSTING
    harness.proving = True
    await receipts(harness)
    assert shown(harness).withdrawn == (bad,)


@alive
async def test_chain_of_compacted_journal_can_be_followed(harness: AuthorityHarness) -> None:
    """Of a CA withdrawn before its epoch the first statement is needed longer than the one that leaves it out."""
    followed: set[int] = set()
    for second in range(20 * 20):
        await harness.until(START + second)
        if second % 40 == 15:
            await roll_back(harness)
        held = {signed.statement.sequence: signed.bundle for signed in harness.journal_store.history.statements}
        if held.keys() != followed:
            followed = set(held)
            assert follow({f"{sequence}": bundle for sequence, bundle in held.items()}, TRUST).faults == ()
    assert min(followed) > 1, "nothing was folded away"
    assert harness.of(StepFailed) == []
