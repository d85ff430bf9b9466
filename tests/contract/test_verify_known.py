"""Verification against what is known from before: the installed text, sequences and overlap (steps 5, 10, 11)."""

from dataclasses import dataclass, replace

import pytest

from tests.harness.contract.bundle_faults import DISJOINT, LATE, state
from tests.harness.contract.ca_factory import (
    CAS,
    CLOCK,
    EPOCH,
    KNOWN,
    NOW,
    ROOT,
    SECOND,
    SEQUENCE,
    STRANGER,
    TOLERANCE,
    TRUST,
    BundleDraft,
    MadeCertificate,
    Recipe,
    bundle,
    fields,
    intermediate,
    pem,
    signed,
    text_of,
    verified,
)
from tidemark.bundle import Bundle, digest_of
from tidemark.verify import (
    BundleRejected,
    Known,
    Mark,
    Reason,
    reopen,
    verify,
)

# Step 5: the installed text


def test_installed_text_passes_at_any_time_and_sequence() -> None:
    installed = verified(bundle())
    known = Known(highest=Mark(SEQUENCE + 9, "0" * 64), installed=installed, shown=SEQUENCE + 9)
    for trust in (TRUST, replace(TRUST, min_sequence=SEQUENCE + 5)):
        for now in (0, NOW, LATE):
            again = verify(bundle(), trust, known, now)
            assert again.already_installed
            assert again.certificates == installed.certificates
            assert again.digest == installed.digest


def test_installed_text_with_other_bytes_or_signature_is_refused() -> None:
    known = Known(installed=verified(bundle()))
    with pytest.raises(BundleRejected, match="digest"):
        verify(Bundle(pem(CAS) + b"\n", bundle().note), TRUST, known, NOW)
    with pytest.raises(BundleRejected, match="signature"):
        verify(Bundle(pem(CAS), signed(text_of(fields()), (STRANGER,))), TRUST, known, NOW)


def test_the_same_text_signed_by_another_trusted_key_is_the_same() -> None:
    known = Known(installed=verified(bundle()))
    result = verify(Bundle(pem(CAS), signed(text_of(fields()), (SECOND,))), TRUST, known, NOW)
    assert result.already_installed
    assert result.signed_by == (f"{SECOND.name}+{SECOND.verifier.hash}",)


# Step 10: sequence


@dataclass(frozen=True)
class Case:
    """What a verifier knew, relative to the candidate's sequence; "same" is the candidate's own digest."""

    highest: int | None
    digest: str = "other"
    shown: int | None = None
    floor: int = 0
    refused: Reason | None = None


SEQUENCES = {
    "nothing known": Case(None),
    "one above": Case(-1),
    "many above": Case(-5),
    "verified before, not installed": Case(0, "same"),
    "verified before, and shown": Case(0, "same", shown=0),
    "verified before, though the mount showed a later one": Case(0, "same", shown=2),
    "verified before, with other text": Case(0, refused=Reason.EQUIVOCATION),
    "the mount lags behind the broker": Case(1, refused=Reason.SUPERSEDED),
    "the mount lags, and shows the same again": Case(3, shown=0, refused=Reason.SUPERSEDED),
    "the mount lags, but continues": Case(3, shown=-1, refused=Reason.SUPERSEDED),
    "the mount goes back": Case(3, shown=1, refused=Reason.REPLAY),
    "the mount goes back by one": Case(1, shown=1, refused=Reason.REPLAY),
    "above what was verified, below what the mount showed": Case(-1, shown=3),
    "nothing known, the mount showed a later one": Case(None, shown=3),
    "at the floor": Case(None, floor=0),
    "below the floor": Case(None, floor=1, refused=Reason.FLOOR),
    "below the floor and going back": Case(3, shown=3, floor=1, refused=Reason.FLOOR),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_only_higher_sequences_pass(name: str) -> None:
    case = SEQUENCES[name]
    digest = digest_of(text_of(fields())) if case.digest == "same" else "0" * 64
    known = Known(
        highest=None if case.highest is None else Mark(SEQUENCE + case.highest, digest),
        installed=KNOWN.installed,
        shown=0 if case.shown is None else SEQUENCE + case.shown,
    )
    draft = BundleDraft(known=known, trust=replace(TRUST, min_sequence=SEQUENCE + case.floor))
    if case.refused is None:
        assert not draft.verify().already_installed
    else:
        assert draft.rejected().reason is case.refused


# Step 11: overlap


def installed_of(*made: MadeCertificate) -> Known:
    """A verifier that has these CAs (and the root) in place."""
    return replace(KNOWN, installed=reopen(bundle((*made, ROOT)), TRUST))


def ending(label: str, end: int) -> MadeCertificate:
    """A CA that is in no other bundle, made under another clock, and ends then."""
    return Recipe(label, ROOT, end=end, epoch=EPOCH - 1).make()


def in_place(*ends: int) -> tuple[Known, list[MadeCertificate]]:
    first = Recipe("in place", ROOT, end=CLOCK.expiry(EPOCH - 3), epoch=EPOCH - 3).make()
    made = [first, *(ending(f"in place {end}", end) for end in ends)]
    return installed_of(*made), made


def test_one_common_ca_is_enough_overlap() -> None:
    assert BundleDraft(known=installed_of(intermediate(EPOCH - 3))).verify()
    assert BundleDraft(known=installed_of(intermediate(EPOCH - 4), intermediate(EPOCH - 3))).verify()


def test_common_root_is_no_overlap() -> None:
    assert BundleDraft(known=replace(KNOWN, installed=DISJOINT)).rejected().reason is Reason.OVERLAP


def test_a_revocation_needs_no_overlap() -> None:
    draft = BundleDraft(known=replace(KNOWN, installed=DISJOINT))
    state(reason="revocation")(draft)
    assert draft.verify()
    for other in ("rotation", "forced", "rollback"):
        state(reason=other)(draft)
        assert draft.rejected().reason is Reason.OVERLAP


def test_expired_installed_cas_need_no_overlap() -> None:
    known, made = in_place(NOW + TOLERANCE, NOW - 1)
    end = CLOCK.expiry(EPOCH - 3)
    late = BundleDraft(known=known, now=end - TOLERANCE)
    assert late.verify()
    assert replace(late, now=end - TOLERANCE - 1).rejected().reason is Reason.OVERLAP
    assert len(made) == 3


def test_withdrawn_installed_cas_need_no_overlap() -> None:
    known, made = in_place(NOW + 3000)
    draft = BundleDraft(known=known)
    assert draft.rejected().reason is Reason.OVERLAP
    state(withdrawn=[made[0].sha256])(draft)
    assert draft.rejected().reason is Reason.OVERLAP
    state(withdrawn=[ca.sha256 for ca in made])(draft)
    assert draft.verify()


def test_expired_and_withdrawn_installed_cas_need_no_overlap() -> None:
    known, made = in_place(NOW + TOLERANCE)
    draft = BundleDraft(known=known)
    state(withdrawn=[made[0].sha256])(draft)
    assert draft.verify()


def test_first_bundle_needs_no_overlap() -> None:
    assert BundleDraft(known=replace(KNOWN, installed=None)).verify()
