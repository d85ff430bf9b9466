"""Leaf certificates: when a new one is due, for how long it is valid, and that each workload goes its own way."""

import asyncio
from dataclasses import replace

from authority.issuer.interface import IssuedLeaf, LeafRequest
from authority.journal.record_types import Opening, OverrideRecord
from authority.pki import certificates
from authority.pki.certificates import Validity
from authority.rotation.actions import Step
from authority.rotation.events import Activated, LeafWritten, StepFailed
from authority.rotation.leaf_renewal import (
    LeafCause,
    LeafSubject,
)
from tests.harness.authority.harness import AuthorityHarness, alive, signed_leaf
from tests.harness.authority.journal_builder import EPOCH, START, make_ca
from tests.harness.authority.memory_backends import MemoryLeafStore
from tests.harness.virtual_time import in_virtual_time
from tidemark.certificates import is_valid_at, issued_by, not_after, not_before, parse_leaf

NEXT = START + 20


@alive
async def test_leaves_follow_each_activation_and_no_half_life_doubles_it(harness: AuthorityHarness) -> None:
    await harness.until(START + 95)
    written = harness.of(LeafWritten)
    assert [(e.at - START, e.cause) for e in written] == [
        (0, LeafCause.MISSING),
        *[(second, LeafCause.ACTIVATION) for second in (20, 40, 60, 80)],
    ]
    assert [e.ca for e in written] == [e.ca for e in harness.of(Activated)]
    assert harness.leaf.leaf is not None
    leaf = parse_leaf(harness.leaf.leaf.certificate_pem, harness.leaf.leaf.key_pem)
    assert (not_before(leaf.certificate), not_after(leaf.certificate)) == (START + 75, START + 120)
    assert leaf.chain == (harness.issuer.cas[f"epoch-{EPOCH + 4}-5"].certificate,)
    state = harness.leaves.states["nats-0"]
    assert (state.not_after, state.ca, state.error) == (START + 120, written[-1].ca, "")


@in_virtual_time
async def test_leaves_are_renewed_at_half_life_while_the_gate_is_held_and_never_run_out() -> None:
    harness = AuthorityHarness(proving=False)
    harness.boot()
    for second in range(1, 60):
        await harness.until(START + second)
        assert harness.leaf.certificate is not None
        assert is_valid_at(harness.leaf.certificate, harness.now())
    written = harness.of(LeafWritten)
    assert [(e.at - START, e.cause, e.not_after - START) for e in written] == [
        (0, LeafCause.MISSING, 40),
        (22, LeafCause.HALF_LIFE, 62),
        (44, LeafCause.HALF_LIFE, 80),
    ]
    await harness.until(START + 61)
    assert harness.of(Activated)[-1].opening is Opening.LAST_RESORT
    assert harness.of(LeafWritten)[-1].cause is LeafCause.ACTIVATION
    await harness.stop()


@alive
async def test_a_leaf_that_was_deleted_or_replaced_comes_back(harness: AuthorityHarness) -> None:
    await harness.until(START + 1)
    harness.leaf.leaf = None
    await harness.until(START + 7)
    stranger = signed_leaf(make_ca(EPOCH, START, START + 80), Validity(START, START + 40))
    assert harness.leaf.leaf is not None
    harness.leaf.leaf = replace(harness.leaf.leaf, certificate_pem=b"-----BEGIN nothing")
    await harness.until(START + 13)
    pem = stranger.public_bytes(encoding=certificates.Encoding.PEM)
    harness.leaf.leaf = replace(harness.leaf.leaf, certificate_pem=pem)
    await harness.until(START + 19)
    causes = [e.cause for e in harness.of(LeafWritten)]
    assert causes == [LeafCause.MISSING, LeafCause.MISSING, LeafCause.MISSING, LeafCause.FOREIGN]


@in_virtual_time
async def test_failing_leaf_target_is_retried_and_delays_no_other() -> None:
    harness = AuthorityHarness()
    broken = MemoryLeafStore("secrets/orders", is_down=True)
    harness.workloads.append((LeafSubject("orders", "orders", ("orders",), ()), broken))
    harness.boot()
    await harness.until(START + 25)
    assert [e.workload for e in harness.of(LeafWritten)] == ["nats-0", "nats-0"]
    failures = harness.of(StepFailed, lambda e: e.step is Step.LEAF)
    assert {e.target for e in failures} == {"orders"}
    assert [e.retry_in for e in failures[:5]] == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert harness.leaves.states["orders"].error == "secrets/orders: down"
    broken.is_down = False
    await harness.until(START + 31)
    assert broken.written == 1
    assert harness.leaves.states["orders"].error == ""
    await harness.stop()


@alive
async def test_a_leaf_decided_upon_an_older_history_is_not_written(harness: AuthorityHarness) -> None:
    await harness.until(START + 10)
    harness.leaf.leaf = None
    issue_leaf = harness.issuer.issue_leaf
    issued: list[LeafRequest] = []

    async def slow(ca_id: str, request: LeafRequest) -> IssuedLeaf:
        """While we sign, somebody else decides something."""
        issued.append(request)
        if len(issued) == 1:
            harness.journal.put(OverrideRecord(harness.now(), "a" * 64, "ada", "elsewhere"))
        return await issue_leaf(ca_id, request)

    harness.issuer.issue_leaf = slow  # type: ignore[method-assign]  # one issuer that is slow
    await harness.until(START + 16)
    assert (len(issued), harness.leaf.written) == (2, 2)


@alive
async def test_a_leaf_that_agents_would_refuse_is_not_written(harness: AuthorityHarness) -> None:
    await harness.until(START + 10)
    other = make_ca(EPOCH, START, START + 80)
    harness.issuer.cas = dict.fromkeys(harness.issuer.cas, other)  # keys that are not the journal's CAs
    harness.leaf.leaf = None
    await harness.until(START + 18)
    assert any("expected a chain to one of 1 anchors" in failed.error for failed in harness.of(StepFailed))
    leaf, signing = harness.leaf.certificate, harness.journal_store.history.signing
    assert leaf is not None
    assert signing is not None
    assert issued_by(leaf, signing.certificate)


@in_virtual_time
async def test_without_workloads_there_is_nothing_to_do_and_no_end() -> None:
    harness = AuthorityHarness()
    harness.workloads.clear()
    harness.boot()
    leaves = asyncio.create_task(harness.leaves.run())
    await harness.until(START + 100)
    assert not leaves.done()
    leaves.cancel()
    await harness.stop()
