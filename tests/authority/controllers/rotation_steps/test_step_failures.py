"""Steps that fail: each is reported, backs off, and keeps no other step from being done."""

from dataclasses import dataclass, replace

from authority.issuer.interface import CaRequest
from authority.rotation.actions import Step
from authority.rotation.events import (
    Activated,
    Prepared,
    StepFailed,
)
from tests.harness.authority.harness import AuthorityHarness, alive
from tests.harness.authority.journal_builder import DOMAIN, EPOCH, START
from tests.harness.authority.memory_backends import (
    MemoryIssuer,
)
from tests.harness.virtual_time import in_virtual_time
from tidemark.certificates import Certificate
from tidemark.note import Signer


@dataclass
class CrookedIssuer(MemoryIssuer):
    """Makes CAs that are not valid yet."""

    async def issue_ca(self, request: CaRequest) -> Certificate:
        return await super().issue_ca(replace(request, not_before=request.not_before + 60))


@in_virtual_time
async def test_ca_that_agents_would_refuse_is_neither_committed_nor_published() -> None:
    harness = AuthorityHarness()
    harness.issuer = CrookedIssuer(harness.effects)
    harness.boot()
    await harness.settle()
    failed = harness.of(StepFailed)[0]
    assert failed.step is Step.PREPARE
    assert "anchors" in failed.error
    assert (harness.journal.last, harness.target.bundle) == (0, None)
    await harness.stop()


@dataclass
class Clock:
    """Somebody else's."""

    server_time: float | None = None


@in_virtual_time
async def test_nothing_is_activated_or_deleted_while_the_clocks_differ() -> None:
    there = Clock()
    harness = AuthorityHarness(references={"OpenBao": there})
    harness.boot()
    await harness.until(START + 18)
    harness.issuer.cas["epoch-1-1"] = harness.issuer.cas[f"epoch-{EPOCH}-1"]  # an orphan, to the next start
    harness.issuer.active = "another"
    await harness.stop()
    there.server_time = START - 3600.0
    harness.boot()
    await harness.until(START + 25)
    failed = {event.step for event in harness.of(StepFailed)}
    assert failed == {Step.SWITCH, Step.ACTIVATE, Step.RETIRE, Step.LEAF}
    assert harness.issuer.active == "another"
    assert len(harness.of(Activated)) == 1
    assert "epoch-1-1" in harness.issuer.cas
    there.server_time = START + 30.0
    await harness.until(START + 31)
    assert harness.issuer.active == f"epoch-{EPOCH + 1}-2"
    assert "epoch-1-1" not in harness.issuer.cas
    await harness.stop()


@alive
async def test_issuer_outage_delays_rotation_and_ends_by_itself(harness: AuthorityHarness) -> None:
    await harness.until(START + 11)
    harness.issuer.is_down = True
    await harness.until(START + 30)
    failures = harness.of(StepFailed, lambda e: e.step is Step.PREPARE)
    assert len(failures) > 3
    assert Step.PREPARE in harness.rotation.failures
    harness.issuer.is_down = False
    await harness.until(START + 36)
    assert [(e.sequence, e.epoch - EPOCH) for e in harness.of(Prepared)] == [(1, 0), (2, 1), (3, 2)]
    assert harness.rotation.failures == {}


@alive
async def test_a_journal_that_is_down_stops_everything_until_it_is_back(harness: AuthorityHarness) -> None:
    await harness.until(START + 11)
    harness.journal.is_down = True
    await harness.until(START + 30)
    assert harness.target.sequence == 1
    assert Step.JOURNAL in harness.rotation.failures
    harness.rotation.wake()
    await harness.settle()
    assert len(harness.of(StepFailed, lambda e: e.step is Step.JOURNAL)) < 10
    harness.journal.is_down = False
    await harness.until(START + 37)
    assert harness.target.sequence == 3


@alive
async def test_statement_signed_by_unknown_key_is_never_committed(harness: AuthorityHarness) -> None:
    await harness.until(START + 11)
    harness.signer.signers = (Signer.generate(f"{DOMAIN}/b"),)
    await harness.until(START + 19)
    assert harness.journal_store.history.next_sequence == 2
    assert all("signature" in e.error for e in harness.of(StepFailed, lambda e: e.step is Step.PREPARE))
    assert harness.of(StepFailed)
    assert harness.target.sequence == 1
