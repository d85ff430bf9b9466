"""Verification: each step refuses for its own reason, in the order of the steps; what is good passes all its life."""

from dataclasses import replace

import pytest

from tests.harness.contract.bundle_faults import FAULTS, KEY, issued_ahead
from tests.harness.contract.ca_factory import (
    CAS,
    CLOCK,
    EPOCH,
    KNOWN,
    NOW,
    OTHER_ROOT,
    ROOT,
    SECOND,
    SEQUENCE,
    SIGNER,
    STRANGER,
    TOLERANCE,
    TRUST,
    BundleDraft,
    Recipe,
    bundle,
    fields,
    intermediate,
    iso,
    pem,
    signed,
    text_of,
    verified,
)
from tidemark import note
from tidemark.bundle import Bundle, digest_of
from tidemark.verify import (
    MAX_BYTES,
    SECURITY_EVENTS,
    STEPS,
    BundleRejected,
    Known,
    Reason,
    VerifiedBundle,
    reopen,
    verify,
)


def test_bundle_without_a_fault_passes() -> None:
    result = BundleDraft().verify()
    assert result.bundle == bundle()
    assert result.certificates == tuple(ca.certificate for ca in CAS)
    assert result.intermediates == {ca.sha256 for ca in CAS[:-1]}
    assert (result.sequence, result.digest) == (SEQUENCE, digest_of(text_of(fields())))
    assert result.signed_by == (f"{SIGNER.name}+{SIGNER.verifier.hash}",)
    assert not result.already_installed


def test_every_reason_has_a_fault_and_a_step() -> None:
    assert {reason for reason, _ in FAULTS.values()} == set(Reason)
    assert set(STEPS) == set(Reason)
    assert sorted(set(STEPS.values())) == list(range(1, 12))
    assert {reason.value for reason in SECURITY_EVENTS} == {"signature", "equivocation", "replay"}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_refused_at_its_step(name: str) -> None:
    reason, fault = FAULTS[name]
    draft = BundleDraft()
    fault(draft)
    refused = draft.rejected()
    assert (refused.reason, refused.step) == (reason, STEPS[reason])
    assert str(refused).startswith(f"bundle rejected at step {STEPS[reason]} ({reason.value}): expected ")
    assert refused.expected in str(refused)
    assert refused.got in str(refused)
    assert len(str(refused)) < 1000
    assert (refused.retry_at is not None) == (reason is Reason.HELD)
    assert [part for part in KEY.decode().split("\n")[1:-2] if part in str(refused)] == []


@pytest.mark.parametrize("name", FAULTS)
def test_of_two_faults_the_earlier_step_is_named(name: str) -> None:
    reason, fault = FAULTS[name]
    for later, (its_reason, its_fault) in FAULTS.items():
        if STEPS[its_reason] <= STEPS[reason]:
            continue
        draft = BundleDraft()
        its_fault(draft)
        fault(draft)
        assert draft.rejected().reason is reason, later


# What is good


def test_bundle_passes_from_issue_to_expiry() -> None:
    # From the moment that the authority may have issued it, seen by the slowest clock, to the end of its newest CA: its
    # older CAs expire one after the other meanwhile.
    issued = CLOCK.prepare_at(EPOCH)
    made = bundle(issued_at=iso(issued))
    for now in (
        issued - TOLERANCE,
        issued,
        *(CLOCK.expiry(EPOCH - age) + shift for age in (4, 3, 2, 1, 0) for shift in (-1, 0)),
    ):
        assert verify(made, TRUST, Known(), now).sequence == SEQUENCE


def test_bundle_is_refused_after_its_newest_ca_has_expired() -> None:
    # Within the tolerance step 7 lets it pass, but no TLS stack would take any CA of it.
    refused = BundleDraft(known=Known(), now=CLOCK.expiry(EPOCH) + 1).rejected()
    assert refused.reason is Reason.ANCHORS
    assert "an intermediate valid at" in refused.expected


def test_bundle_passes_within_tolerance_while_an_older_ca_is_valid() -> None:
    longer = Recipe("of a longer epoch", ROOT, end=NOW + 10**6, epoch=3).make()
    made = bundle((CAS[0], longer, ROOT))
    end = CLOCK.expiry(EPOCH)
    assert verify(made, TRUST, Known(), end + TOLERANCE)
    with pytest.raises(BundleRejected, match=r"step 7 \(expired\)"):
        verify(made, TRUST, Known(), end + TOLERANCE + 1)


def test_a_first_bundle_passes_on_a_clock_that_is_behind_by_the_tolerance() -> None:
    # NotBefore of the CA is its issuing time less the tolerance: steps 6 and 9 open at the same second.
    issued = NOW
    only = Recipe("first", ROOT, begin=issued - TOLERANCE, end=CLOCK.expiry(EPOCH), epoch=EPOCH).make()
    made = bundle((only, ROOT), issued_at=iso(issued))
    assert verify(made, TRUST, Known(), issued - TOLERANCE)
    with pytest.raises(BundleRejected, match="step 6"):
        verify(made, TRUST, Known(), issued - TOLERANCE - 1)


def test_tolerance_does_not_apply_to_intermediates() -> None:
    coming = Recipe("coming", ROOT, begin=NOW + 1, end=CLOCK.expiry(EPOCH), epoch=EPOCH).make()
    assert BundleDraft(cas=[coming, ROOT], known=Known()).rejected().reason is Reason.ANCHORS
    assert BundleDraft(cas=[coming, ROOT], known=Known(), now=NOW + 1).verify()
    old = Recipe("old", ROOT, begin=0, end=NOW - 1, epoch=EPOCH - 5).make()
    assert BundleDraft(cas=[coming, old, ROOT], known=Known()).rejected().reason is Reason.ANCHORS
    assert BundleDraft(cas=[coming, old, ROOT], known=Known()).rejected().got == "none"  # the root does not count


def test_a_statement_may_be_issued_long_after_its_cas_and_before_they_begin() -> None:
    assert BundleDraft(statement=lambda made: made | {"issued_at": iso(NOW), "reason": "rollback"}).verify()
    assert BundleDraft(statement=lambda made: made | {"issued_at": iso(0)}).verify()


def test_held_bundle_passes_from_the_second_of_retry_at() -> None:
    draft = BundleDraft()
    issued_ahead(TOLERANCE + 30)(draft)
    refused = draft.rejected()
    assert refused.retry_at == NOW + 30
    assert f"the clocks differ by {TOLERANCE + 30} s" in refused.got
    made = draft.bundle()
    assert verify(made, TRUST, KNOWN, NOW + 30)
    with pytest.raises(BundleRejected, match="held"):
        verify(made, TRUST, KNOWN, NOW + 29)


def test_roots_may_be_none_one_or_several() -> None:
    other = intermediate(EPOCH - 2, OTHER_ROOT, "by the other root")
    for made in (CAS[:-1], (CAS[0], CAS[1], other, ROOT, OTHER_ROOT), (CAS[0], other)):
        assert verified(bundle(made)).certificates == tuple(ca.certificate for ca in made)
    for made, place in (((CAS[0], other, ROOT), 2), ((other, CAS[0], OTHER_ROOT), 2)):
        with pytest.raises(BundleRejected, match=f"certificate {place} to be signed by a root"):
            verified(bundle(made))


def test_the_sizes_that_are_allowed_pass() -> None:
    many = [CAS[0], *(Recipe(f"old {i}", ROOT, epoch=EPOCH - 9).make() for i in range(62)), ROOT]
    assert len(verified(bundle(many)).certificates) == 64
    spare = MAX_BYTES - bundle().size
    padding = b"#\n" * (spare // 2) + b"\n" * (spare % 2)
    full = bundle(ca_crt=pem(CAS) + padding)
    assert full.size == MAX_BYTES
    assert verified(full)
    with pytest.raises(BundleRejected, match="step 1"):
        verified(bundle(ca_crt=pem(CAS) + padding + b"\n"))


@pytest.mark.parametrize("change", [b"\r\n", b" \n"])
def test_line_ends_and_comments_change_nothing(change: bytes) -> None:
    result = verified(bundle(ca_crt=b"# tidemark\n\n" + pem(CAS).replace(b"\n", change)))
    assert result.certificates == tuple(ca.certificate for ca in CAS)


def test_bundle_with_two_signatures_passes_with_either_key() -> None:
    first, second = (f"{signer.name}+{signer.verifier.hash}" for signer in (SIGNER, SECOND))
    text = text_of(fields())
    both = Bundle(pem(CAS), signed(text, (SIGNER, SECOND)))
    old, new = replace(TRUST, keys=(SIGNER.verifier,)), replace(TRUST, keys=(SECOND.verifier,))
    assert verify(both, TRUST, Known(), NOW).signed_by == (first, second)
    assert verify(both, old, Known(), NOW).signed_by == (first,)
    assert verify(both, new, Known(), NOW).signed_by == (second,)
    assert verify(both, replace(TRUST, threshold=2), Known(), NOW)
    assert verify(Bundle(pem(CAS), signed(text, (STRANGER, SECOND))), TRUST, Known(), NOW).signed_by == (second,)


# VerifiedBundle and reopen


def test_a_verified_bundle_is_made_by_verification_alone() -> None:
    made = verified(bundle())
    values = (made.bundle, made.statement, made.digest, made.certificates, made.signed_by, made.already_installed)
    for seal in (None, True, object(), made):
        with pytest.raises(TypeError, match=r"made by tidemark\.verify"):
            VerifiedBundle(*values, seal)
    with pytest.raises(TypeError):
        VerifiedBundle(*values)  # type: ignore[call-arg]  # the seal is left out on purpose
    with pytest.raises((TypeError, ValueError)):
        replace(made, bundle=Bundle(b"evil", b"evil"))  # type: ignore[call-arg]  # so says mypy already
    with pytest.raises(AttributeError):
        made.digest = "0" * 64  # type: ignore[misc]  # it is frozen


def test_reopening_accepts_an_expired_set() -> None:
    again = reopen(bundle(issued_at=iso(NOW + 10**6)), TRUST)
    assert again.already_installed
    assert again.certificates == tuple(ca.certificate for ca in CAS)
    assert reopen(bundle(), replace(TRUST, min_sequence=SEQUENCE + 1)).sequence == SEQUENCE


@pytest.mark.parametrize("name", [n for n, (reason, _) in FAULTS.items() if STEPS[reason] in (1, 2, 3, 4, 5, 8, 9)])
def test_reopening_refuses_a_changed_set(name: str) -> None:
    reason, fault = FAULTS[name]
    draft = BundleDraft()
    fault(draft)
    with pytest.raises(BundleRejected) as refused:
        reopen(draft.bundle(), draft.trust)
    assert refused.value.reason is reason


def test_refusals_are_short_for_every_bundle() -> None:
    names = [note.Signer(f"{'x' * 500}{i}", STRANGER.private_key) for i in range(100)]
    for made in (
        Bundle(pem(CAS), signed(text_of(fields()), names)),
        Bundle(pem(CAS), b"text\n\n\xe2\x80\x94 " + b"y" * 100_000 + b" *\n"),
        bundle(reason="z" * 100_000),
        bundle(sequence=10**4000),
    ):
        with pytest.raises(BundleRejected) as refused:
            verified(made)
        assert len(str(refused.value)) < 1000
        assert len(refused.value.got) < 500
