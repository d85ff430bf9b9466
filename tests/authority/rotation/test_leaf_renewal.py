"""When a leaf is renewed, and by which CA."""

from dataclasses import replace

import pytest

from authority.journal.history import EpochCa, History
from authority.pki.certificates import Validity
from authority.pki.keystore import CaPair
from authority.rotation.leaf_renewal import (
    LeafCause,
    LeafSubject,
    cause_of_renewal,
    leaf_request,
    renewal_at,
    signing_ca,
)
from tests.harness.authority.harness import WORKLOAD, signed_leaf
from tests.harness.authority.journal_builder import EPOCH, PLAYGROUND, START, make_ca, running
from tidemark.certificates import Certificate, fingerprint, not_after
from tidemark.epoch import PRESETS, Timing

NEXT = START + 20


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
    assert cause(signed_leaf(pair, Validity(START - 5, START + 40)), history, START + 1) is None


def test_leaf_of_older_ca_differs_from_foreign_leaf(pair: CaPair) -> None:
    history = history_of(pair)
    leaf = signed_leaf(pair, Validity(START - 5, START + 40))
    newer = make_ca(EPOCH + 1, START + 7, START + 100)
    next_ca = replace(
        history.cas[0], issue_order=2, certificate=newer.certificate, sha256=fingerprint(newer.certificate)
    )
    activated = replace(history.activations[0], ca=next_ca.sha256)
    rotated = replace(history, cas=(*history.cas, next_ca), activations=(*history.activations, activated))
    assert cause(leaf, rotated, NEXT) is LeafCause.ACTIVATION
    stranger = signed_leaf(make_ca(EPOCH, START, START + 80), Validity(START, START + 40))
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
    leaf = signed_leaf(pair, Validity(START - 5, START + 40))
    assert cause(leaf, history_of(pair), START + 1, other) is LeafCause.NAMES
    assert cause(signed_leaf(pair, Validity(START - 5, START + 40), other), history_of(pair), START + 1, other) is None


def test_the_name_and_the_order_of_names_do_not_matter(pair: CaPair) -> None:
    both = replace(WORKLOAD, dns_names=("a", "b"))
    leaf = signed_leaf(pair, Validity(START - 5, START + 40), both)
    assert cause(leaf, history_of(pair), START + 1, replace(both, name="other", dns_names=("b", "a"))) is None


def test_half_life_is_of_the_life_that_the_leaf_really_has(pair: CaPair) -> None:
    whole, short = (
        signed_leaf(pair, Validity(START - 5, START + 40)),
        signed_leaf(pair, Validity(START - 5, START + 20)),
    )
    assert renewal_at(whole, PLAYGROUND) == START + 20 + 2
    assert renewal_at(short, PLAYGROUND) == START + 10 + 2
    history = history_of(pair)
    assert cause(whole, history, START + 21) is None
    assert cause(whole, history, START + 22) is LeafCause.HALF_LIFE


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_grace_at_half_life_leaves_time_for_a_delivery(preset: str, pair: CaPair) -> None:
    timing = PRESETS[preset]
    leaf = signed_leaf(pair, Validity(START - timing.tolerance_seconds, START + timing.leaf_seconds))
    left = not_after(leaf) - renewal_at(leaf, timing)
    assert left >= timing.delivery_seconds + timing.tolerance_seconds
    assert renewal_at(leaf, timing) > START + timing.leaf_seconds // 2


def test_a_tight_timing_gets_no_grace(pair: CaPair) -> None:
    tight = Timing(PLAYGROUND.clock, tolerance_seconds=5, leaf_seconds=40, delivery_seconds=2, splay_seconds=0)
    tighter = replace(tight, leaf_seconds=15)
    assert renewal_at(signed_leaf(pair, Validity(START - 5, START + 15)), tighter) == START + 7


def test_near_the_end_of_its_ca_a_leaf_is_not_renewed_for_nothing(pair: CaPair) -> None:
    history = history_of(pair)
    full = signed_leaf(pair, Validity(START + 45, START + 80))  # ends with its CA
    for now in range(START + 50, START + 80):
        assert cause(full, history, now) is None
    earlier = signed_leaf(pair, Validity(START + 20, START + 65))
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


def test_a_leaf_that_the_issuers_clock_dates_before_the_activation_is_not_replaced(pair: CaPair) -> None:
    """OpenBao counts back from its own now, which may be a moment behind ours."""
    early = signed_leaf(pair, Validity(START - PLAYGROUND.tolerance_seconds - 2, START + 40))
    assert cause(early, history_of(pair), START + 1) is None


def test_where_a_ca_signs_again_its_leaves_of_the_first_time_are_replaced(pair: CaPair) -> None:
    history = history_of(pair)
    (ca,) = history.cas
    again = replace(history, cas=(replace(ca, activated_at=START + 30, signs_again=True),))
    assert cause(signed_leaf(pair, Validity(START + 24, START + 65)), again, START + 30) is LeafCause.ACTIVATION
    assert cause(signed_leaf(pair, Validity(START + 25, START + 65)), again, START + 30) is None
