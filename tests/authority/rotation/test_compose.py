"""Composition, and the agents' own verifier over what was composed and signed."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authority.journal.history import SignedStatement
from authority.pki import certificates
from authority.pki.certificates import CaName, Validity
from authority.rotation.compose import (
    BundleFull,
    BundleMember,
    StatementContents,
    check,
    check_room,
    compose,
    surviving,
)
from tests.harness.authority.journal_builder import (
    DAY,
    DOMAIN,
    EPOCH,
    PLAYGROUND,
    ROOT,
    SIGNER,
    START,
    TRUST,
    JournalBuilder,
    make_ca,
    running,
)
from tidemark import note
from tidemark.bundle import NO_PREVIOUS, Bundle, Cause, Role, Statement, StatementError
from tidemark.note import Signer
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, Reason

CLOCK = PLAYGROUND.clock


def contents(*epochs: int, at: int = START, roots: bool = True) -> StatementContents:
    members = tuple(BundleMember(epoch, make_ca(epoch, at - 5, CLOCK.expiry(epoch)).certificate) for epoch in epochs)
    return StatementContents(Cause.ROTATION, CLOCK, members, (ROOT.certificate,) if roots else ())


def signed(statement: Statement, ca: bytes, *signers: Signer) -> Bundle:
    return Bundle(ca, bytes(note.sign(statement.text(), signers or [SIGNER])))


def newest(builder: JournalBuilder) -> SignedStatement:
    found = builder.history.newest
    assert found is not None
    return found


def test_the_first_statement() -> None:
    wanted = contents(EPOCH, EPOCH - 1)
    draft = compose(DOMAIN, wanted, None, START + 3)
    statement = draft.statement
    assert (statement.sequence, statement.previous, statement.cause) == (1, NO_PREVIOUS, Cause.ROTATION)
    assert (statement.epoch, statement.clock, statement.trust_domain) == (EPOCH, CLOCK, DOMAIN)
    assert (statement.issued_at, statement.next_update, statement.expires_at) == (START + 3, START + 12, START + 80)
    assert [anchor.role for anchor in statement.anchors] == [Role.INTERMEDIATE, Role.INTERMEDIATE, Role.ROOT]
    assert [anchor.epoch for anchor in statement.anchors] == [EPOCH, EPOCH - 1, None]
    assert statement.withdrawn == ()
    verified = check(signed(statement, draft.ca), TRUST, None, START + 3)
    assert verified.certificates == (*(member.certificate for member in wanted.cas), ROOT.certificate)


def test_the_next_one_carries_on_every_unexpired_ca_newest_by_issue_first() -> None:
    builder, first = running()
    second = builder.prepare(EPOCH + 1, START + 12)
    forced = builder.prepare(EPOCH + 1, START + 13, Cause.FORCED)
    assert [member.epoch for member in surviving(builder.history, START + 14)] == [EPOCH + 1, EPOCH + 1, EPOCH]
    statement = newest(builder).statement
    assert [anchor.sha256 for anchor in statement.intermediates] == [forced.sha256, second.sha256, first.sha256]
    assert statement.previous == builder.history.statements[1].digest
    assert surviving(builder.history, first.not_after - 1)[-1].certificate == first.certificate
    assert surviving(builder.history, first.not_after)[-1].certificate == second.certificate


def test_an_update_is_due_at_once_where_the_next_prepare_time_has_passed() -> None:
    assert compose(DOMAIN, contents(EPOCH), None, START + 15).statement.next_update == START + 15


def test_expired_roots_are_left_out_and_roots_may_be_left_out_altogether() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    old = certificates.root(CaName(DOMAIN, "root"), key, Validity(START - DAY, START), path_length=1)
    wanted = contents(EPOCH)
    draft = compose(DOMAIN, replace(wanted, roots=(ROOT.certificate, old.certificate)), None, START)
    assert len(draft.statement.anchors) == 2
    without = compose(DOMAIN, contents(EPOCH, roots=False), None, START)
    assert [anchor.role for anchor in without.statement.anchors] == [Role.INTERMEDIATE]
    assert check(signed(without.statement, without.ca), TRUST, None, START).sequence == 1


def test_a_full_bundle_is_refused_before_it_is_signed() -> None:
    check_room(63, 1)
    with pytest.raises(BundleFull, match="at most 64 certificates, found 64 CAs and 1 roots"):
        check_room(64, 1)
    ca = BundleMember(EPOCH, ROOT.certificate)
    with pytest.raises(BundleFull):
        compose(DOMAIN, StatementContents(Cause.FORCED, CLOCK, (ca,) * 64, (ROOT.certificate,)), None, START)


def test_a_bundle_without_a_ca_is_refused() -> None:
    with pytest.raises(StatementError, match="expected one intermediate or more"):
        compose(DOMAIN, contents(), None, START)


def test_bundle_that_agents_would_refuse_is_rejected() -> None:
    builder, _ = running()
    previous = newest(builder)
    draft = compose(DOMAIN, contents(EPOCH + 1, at=START + 12), previous, START + 12)
    good = StatementContents(
        Cause.ROTATION, CLOCK, (*contents(EPOCH + 1, at=START + 12).cas, *surviving(builder.history, START + 12)), ()
    )
    fitting = compose(DOMAIN, good, previous, START + 12)
    assert check(signed(fitting.statement, fitting.ca), TRUST, previous, START + 12).sequence == 2
    wrong = {
        Reason.OVERLAP: (signed(draft.statement, draft.ca), TRUST),
        Reason.SIGNATURE: (signed(fitting.statement, fitting.ca, Signer.generate(f"{DOMAIN}/b")), TRUST),
        Reason.TRUST_DOMAIN: (signed(replace(fitting.statement, trust_domain="other"), fitting.ca), TRUST),
        Reason.DIGEST: (signed(fitting.statement, fitting.ca + b"#\n"), TRUST),
        Reason.HELD: (signed(replace(fitting.statement, issued_at=START + 18), fitting.ca), TRUST),
        Reason.SUPERSEDED: (signed(replace(fitting.statement, sequence=1), fitting.ca), TRUST),
    }
    builder.prepare(EPOCH + 1, START + 12)
    for reason, (bundle, trust) in wrong.items():
        with pytest.raises(BundleRejected) as refusal:
            check(bundle, trust, newest(builder) if reason is Reason.SUPERSEDED else previous, START + 12)
        assert refusal.value.reason is reason


def test_each_of_two_signing_keys_must_do_alone() -> None:
    other = Signer.generate(f"{DOMAIN}/b")
    both = Trust(DOMAIN, (SIGNER.verifier, other.verifier), tolerance_seconds=5)
    draft = compose(DOMAIN, contents(EPOCH), None, START)
    assert check(signed(draft.statement, draft.ca, SIGNER, other), both, None, START).signed_by
    with pytest.raises(BundleRejected, match="signature"):
        check(signed(draft.statement, draft.ca, SIGNER), both, None, START)


def test_a_previous_statement_by_a_key_that_was_replaced_is_no_obstacle() -> None:
    builder, _ = running()
    other = Signer.generate(f"{DOMAIN}/b")
    draft = compose(DOMAIN, contents(EPOCH + 1, at=START + 12), newest(builder), START + 12)
    trust = Trust(DOMAIN, (other.verifier,), tolerance_seconds=5)
    assert check(signed(draft.statement, draft.ca, other), trust, newest(builder), START + 12).sequence == 2
