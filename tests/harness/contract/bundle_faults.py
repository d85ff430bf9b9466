"""Every fault for which a bundle is refused: changes to a valid draft, by the verification step that refuses them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.harness.contract.ca_factory import (
    CAS,
    CLOCK,
    DOMAIN,
    EPOCH,
    INSTALLED,
    KNOWN,
    NOW,
    OTHER_ROOT,
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
    intermediate,
    iso,
    leaf_recipe,
    pem,
    verified,
)
from tidemark import note
from tidemark.bundle import Bundle
from tidemark.verify import (
    MAX_BYTES,
    Mark,
    Reason,
)

Fault = Callable[[BundleDraft], None]


# Ways to change a draft


def state(**changes: Any) -> Fault:
    """Change fields of the statement; a change may be a function of the statement."""

    def fault(draft: BundleDraft) -> None:
        before = draft.statement

        def statement(made: dict[str, Any]) -> dict[str, Any]:
            made = before(made)
            return made | {name: change(made) if callable(change) else change for name, change in changes.items()}

        draft.statement = statement

    return fault


def leave_out(name: str) -> Fault:
    def fault(draft: BundleDraft) -> None:
        before = draft.statement
        draft.statement = lambda made: {key: value for key, value in before(made).items() if key != name}

    return fault


def anchor_says(place: int, **changes: Any) -> Fault:
    def anchors(made: dict[str, Any]) -> list[dict[str, Any]]:
        return [a | changes if i == place else a for i, a in enumerate(made["anchors"])]

    return state(anchors=anchors)


def cas(*made: MadeCertificate) -> Fault:
    def fault(draft: BundleDraft) -> None:
        draft.cas = list(made)

    return fault


def file(change: Callable[[bytes], bytes]) -> Fault:
    """Change ``ca.crt`` before the statement about it is made."""

    def fault(draft: BundleDraft) -> None:
        before = draft.ca_crt
        draft.ca_crt = lambda data: change(before(data))

    return fault


def change_text(change: Callable[[str], str]) -> Fault:
    """Change the statement's text before it is signed."""

    def fault(draft: BundleDraft) -> None:
        draft.text = change

    return fault


def send(ca: Callable[[bytes], bytes] = bytes, note_: Callable[[bytes], bytes] = bytes) -> Fault:
    """Change what arrives after it was signed."""

    def fault(draft: BundleDraft) -> None:
        before = draft.sent

        def sent(made: Bundle) -> Bundle:
            made = before(made)
            return Bundle(ca(made.ca), note_(made.note))

        draft.sent = sent

    return fault


def sign_with(*signers: note.Signer) -> Fault:
    def fault(draft: BundleDraft) -> None:
        draft.signers = signers

    return fault


def given(**changes: Any) -> Fault:
    """Change the state, trust or clock of the verifier."""

    def fault(draft: BundleDraft) -> None:
        for name, value in changes.items():
            setattr(draft, name, value)

    return fault


def issued_ahead(seconds: int) -> Fault:
    def fault(draft: BundleDraft) -> None:
        state(issued_at=lambda _: iso(draft.now + seconds))(draft)

    return fault


KEY = CAS[0].key_pem
SUBORDINATE = replace(leaf_recipe(CAS[0]), ca=True).make()
NO_USAGE = Recipe("no usage", ROOT, usages=None, end=CLOCK.expiry(EPOCH), epoch=EPOCH).make()
STRAY = intermediate(EPOCH - 1, OTHER_ROOT, "stray")
IMPOSTOR_ROOT = Recipe("bus.test root", SUBORDINATE, end=NOW + 10**6).make()
LATE = CLOCK.expiry(EPOCH) + TOLERANCE + 100
DISJOINT = verified(bundle((intermediate(EPOCH, label="elsewhere"), intermediate(EPOCH - 1, label="elsewhere"), ROOT)))
"""A set that has no intermediate in common with the draft's, and none that has expired at NOW."""


def as_leaf(draft: BundleDraft) -> None:
    draft.cas[1] = MadeCertificate(leaf_recipe(ROOT).make().certificate, ROOT.key, EPOCH - 1)


FAULTS: dict[str, tuple[Reason, Fault]] = {
    # 1
    "more bytes than a bundle may have": (Reason.SIZE, send(ca=lambda ca: ca + b"#\n" * (MAX_BYTES // 2))),
    "a note of half a megabyte": (Reason.SIZE, send(note_=lambda made: made + b"x" * MAX_BYTES)),
    "65 certificates": (Reason.SIZE, send(ca=lambda ca: ca + CAS[0].pem * 65)),
    "65 blocks of any kind": (Reason.SIZE, send(ca=lambda ca: ca + b"-----BEGIN X-----\n" * 65)),
    # 2
    "signed by a stranger": (Reason.SIGNATURE, sign_with(STRANGER)),
    "without a signature": (Reason.SIGNATURE, send(note_=lambda made: made[: made.rindex(b"\n\n") + 2])),
    "a text alone": (Reason.SIGNATURE, send(note_=lambda made: made[: made.rindex(b"\n\n") + 1])),
    "no note at all": (Reason.SIGNATURE, send(note_=lambda _: b"")),
    "garbage for a note": (Reason.SIGNATURE, send(note_=lambda _: b"\xff\xfe\x00garbage")),
    "a note cut off": (Reason.SIGNATURE, send(note_=lambda made: made[:-20])),
    "another text over the signature": (
        Reason.SIGNATURE,
        send(note_=lambda made: made.replace(b"\n", b" \n", 1)),
    ),
    "the signature of another note": (
        Reason.SIGNATURE,
        send(
            note_=lambda made: made.replace(
                made[made.rindex(b"\n\n") :], INSTALLED.note[INSTALLED.note.rindex(b"\n\n") :]
            )
        ),
    ),
    "fewer signatures than the trust file wants": (Reason.SIGNATURE, given(trust=replace(TRUST, threshold=2))),
    "signed by a key that is trusted no more": (Reason.SIGNATURE, given(trust=replace(TRUST, keys=(SECOND.verifier,)))),
    # 3
    "a field left out": (Reason.SHAPE, leave_out("next_update")),
    "a later version": (Reason.SHAPE, change_text(lambda text: text.replace("bundle/v1", "bundle/v2"))),
    "an unknown role": (Reason.SHAPE, anchor_says(1, role="leaf")),
    "an unknown reason": (Reason.SHAPE, state(reason="whim")),
    "a field given twice": (Reason.SHAPE, change_text(lambda text: text.replace("{", '{"sequence":7,', 1))),
    "another note's text": (Reason.SHAPE, change_text(lambda _: "go.sum database tree\n1\n")),
    "a clock outside the bounds": (Reason.SHAPE, state(validity_seconds=2400)),
    "a certificate listed twice": (Reason.SHAPE, state(anchors=lambda made: [made["anchors"][0], *made["anchors"]])),
    "an end that is not the first anchor's": (Reason.SHAPE, state(expires_at=iso(NOW + 10**6))),
    # 4
    "another deployment": (Reason.TRUST_DOMAIN, state(trust_domain="other.test")),
    "the same in capitals": (Reason.TRUST_DOMAIN, state(trust_domain=DOMAIN.upper())),
    # 5
    "a newline more": (Reason.DIGEST, send(ca=lambda ca: ca + b"\n")),
    "the file of the last epoch": (Reason.DIGEST, send(ca=lambda _: INSTALLED.ca)),
    "an empty file": (Reason.DIGEST, send(ca=lambda _: b"")),
    "a file cut off": (Reason.DIGEST, send(ca=lambda ca: ca[:-100])),
    # 6
    "a statement of the future": (Reason.HELD, issued_ahead(TOLERANCE + 1)),
    "a statement of the far future": (Reason.HELD, issued_ahead(10**9)),
    # 7
    "an expired statement": (Reason.EXPIRED, given(now=LATE)),
    # 8
    "cut in the middle of the second certificate": (Reason.PEM, file(lambda ca: ca[: len(CAS[0].pem) + 300])),
    "a private key": (Reason.PEM, file(lambda ca: ca + KEY)),
    "a private key as certificate": (Reason.PEM, file(lambda ca: ca + KEY.replace(b"PRIVATE KEY", b"CERTIFICATE"))),
    "garbage between": (Reason.PEM, file(lambda ca: ca.replace(b"-----\n-----", b"-----\ngarbage\n-----"))),
    "PEM headers": (Reason.PEM, file(lambda ca: ca.replace(b"TE-----\n", b"TE-----\nA: b\n\n", 1))),
    "nothing in the file": (Reason.PEM, file(lambda _: b"# nothing\n")),
    "malformed DER": (Reason.PEM, file(lambda ca: ca.replace(b"MII", b"MIJ", 1))),
    # 9
    "a certificate too many": (Reason.ANCHORS, file(lambda ca: ca + OTHER_ROOT.pem)),
    "a certificate too few": (Reason.ANCHORS, file(lambda ca: ca.replace(CAS[1].pem, b""))),
    "in another order": (Reason.ANCHORS, file(lambda ca: CAS[0].pem + CAS[2].pem + CAS[1].pem + pem(CAS[3:]))),
    "another certificate in its place": (Reason.ANCHORS, file(lambda ca: ca.replace(CAS[1].pem, STRAY.pem))),
    "an anchor with another fingerprint": (Reason.ANCHORS, anchor_says(1, sha256="0" * 64)),
    "an anchor with an earlier start": (Reason.ANCHORS, anchor_says(1, not_before=iso(0))),
    "an anchor with a later end": (Reason.ANCHORS, anchor_says(1, not_after=iso(NOW + 10**6))),
    "a root with a later end": (Reason.ANCHORS, anchor_says(4, not_after=iso(NOW + 10**9))),
    "a leaf as CA": (Reason.ANCHORS, as_leaf),
    "a CA without KeyUsage": (Reason.ANCHORS, cas(NO_USAGE, *CAS[1:])),
    "a withdrawn CA": (Reason.ANCHORS, state(withdrawn=["ab" * 32, CAS[2].sha256])),
    "a withdrawn root": (Reason.ANCHORS, state(withdrawn=[ROOT.sha256])),
    "an intermediate of another root": (Reason.ANCHORS, cas(CAS[0], STRAY, *CAS[2:])),
    "a root that another CA signed": (Reason.ANCHORS, cas(*CAS, IMPOSTOR_ROOT)),
    "an intermediate for a root": (Reason.ANCHORS, anchor_says(3, role="root")),
    "a first CA of another length": (
        Reason.ANCHORS,
        cas(Recipe("long", ROOT, end=CLOCK.expiry(EPOCH) + 1, epoch=EPOCH).make(), *CAS[1:]),
    ),
    "a first CA of another epoch": (
        Reason.ANCHORS,
        cas(MadeCertificate(CAS[0].certificate, CAS[0].key, EPOCH + 1), *CAS[1:]),
    ),
    # 10
    "below the floor": (Reason.FLOOR, given(trust=replace(TRUST, min_sequence=SEQUENCE + 1))),
    "the same number with another text": (
        Reason.EQUIVOCATION,
        given(known=replace(KNOWN, highest=Mark(SEQUENCE, "0" * 64))),
    ),
    "older than what came from elsewhere": (
        Reason.SUPERSEDED,
        given(known=replace(KNOWN, highest=Mark(SEQUENCE + 1, "0" * 64))),
    ),
    "older than what this mount has shown": (
        Reason.REPLAY,
        given(known=replace(KNOWN, highest=Mark(SEQUENCE + 2, "0" * 64), shown=SEQUENCE + 1)),
    ),
    # 11
    "no CA in common": (Reason.OVERLAP, given(known=replace(KNOWN, installed=DISJOINT))),
}
