"""Leaf certificates: when a new one is due, for how long it is valid, and that each workload goes its own way."""

import asyncio
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authority.issuer.interface import IssuedLeaf, LeafRequest
from authority.journal.history import EpochCa, History
from authority.journal.record_types import Opening, OverrideRecord
from authority.pki import certificates
from authority.pki.certificates import LeafNames, Validity
from authority.pki.keystore import CaPair
from authority.rotation.actions import Step
from authority.rotation.events import Activated, LeafWritten, StepFailed
from authority.rotation.leaf_renewal import (
    LeafCause,
    LeafSubject,
    cause_of_renewal,
    leaf_request,
    renewal_at,
    signing_ca,
)
from tests.harness import virtual_time
from tests.harness.authority.harness import WORKLOAD, AuthorityHarness, alive
from tests.harness.authority.journal_builder import EPOCH, PLAYGROUND, START, make_ca, running
from tests.harness.authority.memory_backends import MemoryLeafStore
from tidemark.certificates import Certificate, fingerprint, is_valid_at, issued_by, not_after, not_before, parse_leaf
from tidemark.epoch import PRESETS, Timing

NEXT = START + 20


def signed(by: CaPair, validity: Validity, workload: LeafSubject = WORKLOAD) -> Certificate:
    names = LeafNames(workload.common_name, workload.dns_names, workload.ip_addresses)
    return certificates.leaf(names, ec.generate_private_key(ec.SECP256R1()), validity, by)


@pytest.fixture
def pair() -> CaPair:
    return make_ca(EPOCH, START - 13, START + 80)


def history_of(pair: CaPair) -> History:
    """A history whose signing CA is one that we hold the key of."""
    builder, _ = running()
    history = builder.history
    ours = replace(history.cas[0], certificate=pair.certificate, sha256=fingerprint(pair.certificate))
    return replace(history, cas=(ours,), activations=(replace(history.activations[0], ca=ours.sha256),))


def cause(shown: Certificate | None, history: History, now: int, workload: LeafSubject = WORKLOAD) -> LeafCause | None:
    return cause_of_renewal(shown, workload, history, PLAYGROUND, now)


def test_a_fresh_leaf_is_left_alone_and_a_missing_one_is_not(pair: CaPair) -> None:
    history = history_of(pair)
    assert cause(None, history, START) is LeafCause.MISSING
    assert cause(signed(pair, Validity(START - 5, START + 40)), history, START + 1) is None


def test_leaf_of_older_ca_differs_from_foreign_leaf(pair: CaPair) -> None:
    history = history_of(pair)
    leaf = signed(pair, Validity(START - 5, START + 40))
    newer = make_ca(EPOCH + 1, START + 7, START + 100)
    next_ca = replace(
        history.cas[0], issue_order=2, certificate=newer.certificate, sha256=fingerprint(newer.certificate)
    )
    activated = replace(history.activations[0], ca=next_ca.sha256)
    rotated = replace(history, cas=(*history.cas, next_ca), activations=(*history.activations, activated))
    assert cause(leaf, rotated, NEXT) is LeafCause.ACTIVATION
    stranger = signed(make_ca(EPOCH, START, START + 80), Validity(START, START + 40))
    assert cause(stranger, history, START + 1) is LeafCause.FOREIGN


@pytest.mark.parametrize(
    "other",
    [
        replace(WORKLOAD, common_name="nats-1"),
        replace(WORKLOAD, dns_names=("nats-0.nats.svc", "nats")),
        replace(WORKLOAD, dns_names=()),
        replace(WORKLOAD, ip_addresses=("::1", "127.0.0.1")),
    ],
)
def test_other_names_in_the_configuration_ask_for_another_leaf(pair: CaPair, other: LeafSubject) -> None:
    leaf = signed(pair, Validity(START - 5, START + 40))
    assert cause(leaf, history_of(pair), START + 1, other) is LeafCause.NAMES
    assert cause(signed(pair, Validity(START - 5, START + 40), other), history_of(pair), START + 1, other) is None


def test_the_name_and_the_order_of_names_do_not_matter(pair: CaPair) -> None:
    both = replace(WORKLOAD, dns_names=("a", "b"))
    leaf = signed(pair, Validity(START - 5, START + 40), both)
    assert cause(leaf, history_of(pair), START + 1, replace(both, name="other", dns_names=("b", "a"))) is None


def test_half_life_is_of_the_life_that_the_leaf_really_has(pair: CaPair) -> None:
    whole, short = signed(pair, Validity(START - 5, START + 40)), signed(pair, Validity(START - 5, START + 20))
    assert renewal_at(whole, PLAYGROUND) == START + 20 + 2
    assert renewal_at(short, PLAYGROUND) == START + 10 + 2
    history = history_of(pair)
    assert cause(whole, history, START + 21) is None
    assert cause(whole, history, START + 22) is LeafCause.HALF_LIFE


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_grace_at_half_life_leaves_time_for_a_delivery(preset: str, pair: CaPair) -> None:
    timing = PRESETS[preset]
    leaf = signed(pair, Validity(START - timing.tolerance_seconds, START + timing.leaf_seconds))
    left = not_after(leaf) - renewal_at(leaf, timing)
    assert left >= timing.delivery_seconds + timing.tolerance_seconds
    assert renewal_at(leaf, timing) > START + timing.leaf_seconds // 2


def test_a_tight_timing_gets_no_grace(pair: CaPair) -> None:
    tight = Timing(PLAYGROUND.clock, tolerance_seconds=5, leaf_seconds=40, delivery_seconds=2, splay_seconds=0)
    tighter = replace(tight, leaf_seconds=15)
    assert renewal_at(signed(pair, Validity(START - 5, START + 15)), tighter) == START + 7


def test_near_the_end_of_its_ca_a_leaf_is_not_renewed_for_nothing(pair: CaPair) -> None:
    history = history_of(pair)
    full = signed(pair, Validity(START + 45, START + 80))  # ends with its CA
    for now in range(START + 50, START + 80):
        assert cause(full, history, now) is None
    earlier = signed(pair, Validity(START + 20, START + 65))
    assert cause(earlier, history, START + 60) is LeafCause.HALF_LIFE


def test_a_leaf_never_outlives_its_ca(pair: CaPair) -> None:
    signing = signing_ca(history_of(pair), START)
    assert signing is not None
    request = leaf_request(WORKLOAD, signing, PLAYGROUND, START + 10)
    assert (request.not_before, request.not_after) == (START + 5, START + 50)
    assert leaf_request(WORKLOAD, signing, PLAYGROUND, START + 70).not_after == START + 80


def test_nothing_is_due_where_nothing_can_be_signed(pair: CaPair) -> None:
    history = history_of(pair)
    assert cause(None, history, START + 80) is None
    assert cause(None, replace(history, activations=()), START) is None
    adopted: EpochCa = replace(history.cas[0], ca_id="")
    assert cause(None, replace(history, cas=(adopted,)), START) is None


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


def test_leaves_are_renewed_at_half_life_while_the_gate_is_held_and_never_run_out() -> None:
    async def main() -> None:
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

    virtual_time.run(main())


@alive
async def test_a_leaf_that_was_deleted_or_replaced_comes_back(harness: AuthorityHarness) -> None:
    await harness.until(START + 1)
    harness.leaf.leaf = None
    await harness.until(START + 7)
    stranger = signed(make_ca(EPOCH, START, START + 80), Validity(START, START + 40))
    assert harness.leaf.leaf is not None
    harness.leaf.leaf = replace(harness.leaf.leaf, certificate_pem=b"-----BEGIN nothing")
    await harness.until(START + 13)
    pem = stranger.public_bytes(encoding=certificates.Encoding.PEM)
    harness.leaf.leaf = replace(harness.leaf.leaf, certificate_pem=pem)
    await harness.until(START + 19)
    causes = [e.cause for e in harness.of(LeafWritten)]
    assert causes == [LeafCause.MISSING, LeafCause.MISSING, LeafCause.MISSING, LeafCause.FOREIGN]


def test_failing_leaf_target_is_retried_and_delays_no_other() -> None:
    async def main() -> None:
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

    virtual_time.run(main())


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


def test_a_leaf_that_the_issuers_clock_dates_before_the_activation_is_not_replaced(pair: CaPair) -> None:
    """OpenBao counts back from its own now, which may be a moment behind ours."""
    early = signed(pair, Validity(START - PLAYGROUND.tolerance_seconds - 2, START + 40))
    assert cause(early, history_of(pair), START + 1) is None


def test_where_a_ca_signs_again_its_leaves_of_the_first_time_are_replaced(pair: CaPair) -> None:
    history = history_of(pair)
    (ca,) = history.cas
    again = replace(history, cas=(replace(ca, activated_at=START + 30, signs_again=True),))
    assert cause(signed(pair, Validity(START + 24, START + 65)), again, START + 30) is LeafCause.ACTIVATION
    assert cause(signed(pair, Validity(START + 25, START + 65)), again, START + 30) is None


def test_without_workloads_there_is_nothing_to_do_and_no_end() -> None:
    async def main() -> None:
        harness = AuthorityHarness()
        harness.workloads.clear()
        harness.boot()
        leaves = asyncio.create_task(harness.leaves.run())
        await harness.until(START + 100)
        assert not leaves.done()
        leaves.cancel()
        await harness.stop()

    virtual_time.run(main())
