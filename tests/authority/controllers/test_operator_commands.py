"""Commands of operators: forced rotations, overrides, and what a caller is answered when nothing can be done."""

import asyncio

import pytest

from authority.journal.record_types import (
    Opening,
    StatementRecord,
)
from authority.rotation.events import (
    Activated,
    GateOverridden,
    Prepared,
)
from authority.rotation.operator_requests import RotationRefused
from tests.harness.authority.harness import AuthorityHarness, alive
from tests.harness.authority.journal_builder import DOMAIN, EPOCH, SIGNER, START, JournalBuilder
from tests.harness.authority.memory_backends import (
    How,
    MemoryIssuer,
    Strike,
    When,
)
from tests.harness.virtual_time import in_virtual_time
from tidemark.bundle import Cause
from tidemark.certificates import Certificate
from tidemark.note import Signer


@alive
async def test_forced_rotation_is_activated_once_proven_also_twice_in_an_epoch(
    harness: AuthorityHarness,
) -> None:
    await harness.until(START + 3)
    for second, sequence in ((3, 2), (6, 3)):
        await harness.until(START + second)
        statement = await harness.rotation.commands.rotate("ada", "a key may have leaked")
        assert (statement.sequence, statement.cause, statement.epoch) == (sequence, Cause.FORCED, EPOCH)
        await harness.settle()
        harness.rotation.wake()
        await harness.settle()
        assert harness.issuer.active == f"epoch-{EPOCH}-{sequence}"
    await harness.until(START + 13)
    statement = await harness.rotation.commands.rotate("ada", "again")
    assert (statement.sequence, statement.epoch) == (5, EPOCH + 1)
    record = harness.journal.records[harness.journal.last]
    assert isinstance(record, StatementRecord)
    assert (record.who, record.reason) == ("ada", "again")
    await harness.until(START + 25)
    assert [e.opening for e in harness.of(Activated)] == [Opening.BOOTSTRAP, *[Opening.GATE] * 3]
    assert harness.issuer.active == f"epoch-{EPOCH + 1}-5"


class SlowRoots(MemoryIssuer):
    """An issuer that takes ``seconds`` to list its roots, the next time that it is asked."""

    seconds = 0.0

    async def roots(self) -> tuple[Certificate, ...]:
        seconds, self.seconds = self.seconds, 0.0
        await asyncio.sleep(seconds)
        return await super().roots()


@in_virtual_time
async def test_forced_rotation_is_for_the_epoch_that_began_while_the_issuer_listed_its_roots() -> None:
    harness = AuthorityHarness()
    issuer = SlowRoots(harness.effects)
    harness.issuer = issuer
    harness.boot()
    await harness.until(START + 11)
    issuer.seconds = 10.0
    statement = await harness.rotation.commands.rotate("ada", "a key may have leaked")
    assert (statement.epoch, statement.cause) == (EPOCH + 1, Cause.FORCED)
    await harness.stop()


@in_virtual_time
async def test_forced_rotation_that_overfills_bundles_is_refused_before_issue() -> None:
    harness = AuthorityHarness(proving=False)
    harness.boot()
    await harness.settle()
    full = JournalBuilder(history=harness.journal_store.history)
    full.entries.extend(harness.journal_store.history.entries)
    for _ in range(58):
        full.prepare(EPOCH, START, Cause.FORCED)
        harness.journal.put(full.entries[-1].record)
    with pytest.raises(RotationRefused, match="at most 64 certificates"):
        await harness.rotation.commands.rotate("ada", "practice")
    assert set(harness.issuer.cas) == {f"epoch-{EPOCH}-1"}
    assert harness.journal.last == full.history.head
    await harness.stop()


@alive
async def test_failed_forced_rotation_is_refused_and_leaves_no_ca_behind(
    harness: AuthorityHarness,
) -> None:
    await harness.until(START + 3)
    harness.signer.signers = (Signer.generate(f"{DOMAIN}/b"),)
    with pytest.raises(RotationRefused, match=r"signature.*; try again"):
        await harness.rotation.commands.rotate("ada", "a key may have leaked")
    harness.issuer.is_down = True
    with pytest.raises(RotationRefused, match="issuer: down; try again"):
        await harness.rotation.commands.rotate("ada", "a key may have leaked")
    harness.issuer.is_down, harness.signer.signers = False, (SIGNER,)
    await harness.until(START + 20)
    assert set(harness.issuer.cas) == {f"epoch-{EPOCH}-1", f"epoch-{EPOCH + 1}-2"}


@in_virtual_time
async def test_waiting_command_is_refused_when_authority_stops() -> None:
    harness = AuthorityHarness()
    harness.boot()
    await harness.settle()
    harness.journal.is_down = True
    waiting = asyncio.create_task(harness.rotation.commands.rotate("ada", "now"))
    gone = asyncio.create_task(harness.rotation.commands.rotate("bob", "never mind"))
    await harness.settle()
    gone.cancel()
    await harness.stop()
    with pytest.raises(RotationRefused, match="expected this replica to lead, found that it stops; try again"):
        await waiting
    assert harness.journal_store.history.next_sequence == 2


@alive
async def test_command_that_timed_out_in_the_queue_is_not_run_later(harness: AuthorityHarness) -> None:
    await harness.settle()
    harness.journal.is_down = True
    with pytest.raises(TimeoutError, match="expected its turn within 20 s, found none: it is withdrawn, nothing"):
        await harness.rotation.commands.rotate("ada", "a key may have leaked")
    harness.journal.is_down = False
    await harness.until(START + 65)
    assert [e.cause for e in harness.of(Prepared)] == [Cause.ROTATION] * 4


@alive
async def test_timeout_of_running_command_says_that_it_may_be_done(
    harness: AuthorityHarness,
) -> None:
    await harness.settle()
    harness.effects.strike = Strike(len(harness.effects.names) + 2, When.BEFORE, How.PAUSE)  # issued, signed
    with pytest.raises(TimeoutError, match="within 20 s, found it still under way: it may be done yet, so look at"):
        await harness.rotation.commands.rotate("ada", "a key may have leaked")
    assert harness.effects.paused.is_set()
    assert harness.journal_store.history.next_sequence == 2
    harness.effects.resumed.set()
    await harness.settle()
    assert [e.cause for e in harness.of(Prepared)][:2] == [Cause.ROTATION, Cause.FORCED]


@in_virtual_time
async def test_an_override_opens_the_gate_and_is_recorded_with_its_reason() -> None:
    harness = AuthorityHarness(proving=False)
    harness.boot()
    await harness.settle()
    with pytest.raises(RotationRefused, match="expected a CA that waits for its gate"):
        await harness.rotation.commands.override("ada", "impatience")
    await harness.until(START + 25)
    ca = await harness.rotation.commands.override("ada", "nats-0 is being replaced")
    await harness.settle()
    assert [(e.epoch, e.who, e.reason) for e in harness.of(GateOverridden)] == [
        (EPOCH + 1, "ada", "nats-0 is being replaced")
    ]
    activated = harness.of(Activated)[-1]
    assert (activated.ca, activated.opening, activated.unproven) == (ca.sha256, Opening.OVERRIDE, ("nats-0",))
    await harness.stop()
