"""What the issuer holds: orphans, lost CAs, and a default issuer that others changed."""

import asyncio
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from authority.journal.record_types import (
    Entry,
    Opening,
    Record,
)
from authority.pki.keystore import CaPair
from authority.rotation.actions import Step
from authority.rotation.events import (
    Activated,
    AppendConflict,
    Prepared,
    Retired,
    StepFailed,
)
from tests.harness.authority.harness import AuthorityHarness, alive
from tests.harness.authority.journal_builder import EPOCH, START, JournalBuilder
from tests.harness.authority.memory_backends import (
    MemoryJournal,
)
from tests.harness.virtual_time import in_virtual_time
from tidemark.bundle import Cause

NEXT = START + 20
PREPARED = NEXT - 8


@alive
async def test_append_conflict_is_decided_anew_and_its_ca_deleted(
    harness: AuthorityHarness,
) -> None:
    await harness.until(START + 11)
    sign = harness.signer.sign

    async def overtaken(text: str) -> object:
        """While we sign, another authority commits a CA of this epoch."""
        harness.signer.sign = sign  # type: ignore[method-assign]  # once
        other = JournalBuilder(entries=[], history=harness.journal_store.history)
        ca = other.prepare(EPOCH, PREPARED, Cause.FORCED)
        harness.issuer.cas[ca.ca_id] = CaPair(ca.certificate, ec.generate_private_key(ec.SECP256R1()))
        harness.journal.put(other.entries[0].record)
        return await sign(text)

    harness.signer.sign = overtaken  # type: ignore[method-assign, assignment]  # a slow signer
    await harness.until(START + 15)
    (conflict,) = harness.of(AppendConflict)
    assert conflict.step is Step.PREPARE
    assert [e.sequence for e in harness.of(Prepared)] == [1, 3]
    assert harness.target.sequence == 3
    assert set(harness.issuer.cas) == {f"epoch-{EPOCH}-1", f"epoch-{EPOCH}-2", f"epoch-{EPOCH + 1}-3"}
    assert [(e.intents, e.orphans) for e in harness.of(Retired)] == [((f"epoch-{EPOCH + 1}-2",), True)]


@alive
async def test_orphans_of_a_crash_are_deleted_once_no_statement_can_name_them(
    harness: AuthorityHarness,
) -> None:
    await harness.settle()
    await harness.stop()
    for left in ("epoch-5-1", "epoch-5-2"):
        harness.issuer.cas[left] = harness.issuer.cas[f"epoch-{EPOCH}-1"]
    harness.boot()
    await harness.settle()
    assert set(harness.issuer.cas) == {f"epoch-{EPOCH}-1", "epoch-5-2"}
    await harness.until(PREPARED + 1)
    assert set(harness.issuer.cas) == {f"epoch-{EPOCH}-1", f"epoch-{EPOCH + 1}-2"}


@alive
async def test_lost_ca_is_reported_and_replaced(harness: AuthorityHarness) -> None:
    await harness.until(PREPARED + 1)
    del harness.issuer.cas[f"epoch-{EPOCH + 1}-2"]
    await harness.until(START + 25)
    (failed,) = harness.of(StepFailed)
    assert (failed.step, failed.target) == (Step.INSPECT, f"epoch-{EPOCH + 1}-2")
    assert harness.issuer.active == f"epoch-{EPOCH + 1}-3"
    assert [e.sequence for e in harness.of(Prepared)] == [1, 2, 3]
    assert [e.opening for e in harness.of(Activated)] == [Opening.BOOTSTRAP, Opening.GATE]


@alive
async def test_default_issuer_changed_by_others_is_set_again(harness: AuthorityHarness) -> None:
    await harness.until(START + 21)
    harness.issuer.active = f"epoch-{EPOCH}-1"  # as one that was paused before it told the issuer so
    await harness.until(START + 27)
    assert harness.issuer.active == f"epoch-{EPOCH + 1}-2"


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


@in_virtual_time
async def test_lagging_journal_reads_lose_no_ca() -> None:
    """OpenBao's standbys answer reads, a moment late: what was just appended must not look like an orphan."""
    harness = AuthorityHarness()
    harness.journal = LaggingJournal(harness.effects)
    harness.boot()
    await harness.until(START + 5)
    await harness.rotation.commands.rotate("ada", "a key may have leaked")
    await harness.until(START + 45)
    assert set(harness.issuer.cas) == {ca.ca_id for ca in harness.rotation.history.cas}
    assert harness.issuer.active == f"epoch-{EPOCH + 2}-4"
    assert (harness.of(AppendConflict), harness.of(StepFailed)) == ([], [])
    await harness.stop()
