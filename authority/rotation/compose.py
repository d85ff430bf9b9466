"""Composition: certificates in, the statement about them out; and the agents' own verifier over the signed result.

Pure. What is signed here is published only after ``check`` has refused nothing (docs/architecture.md, invariant 9).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from authority.journal.history import History, SignedStatement
from tidemark.bundle import NO_PREVIOUS, Anchor, Bundle, Cause, Role, Statement
from tidemark.certificates import Certificate, fingerprint, not_after, not_before, to_pem
from tidemark.epoch import EpochClock
from tidemark.trust import Trust
from tidemark.verify import MAX_CERTIFICATES, BundleRejected, Known, Mark, Reason, VerifiedBundle, reopen, verify


class BundleFull(Exception):
    """A bundle would hold more certificates than agents accept; the message says how many and what frees a place."""


@dataclass(frozen=True, slots=True)
class BundleMember:
    """A CA of the bundle to be made, and its epoch."""

    epoch: int
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class StatementContents:
    """What a statement is to be about: ``cas`` newest by issue first, ``clock`` the one the first was made under.

    ``withdrawn`` are the fingerprints to be listed as such; ``due`` is when the next statement is (None: when the CA
    after the first is prepared).
    """

    cause: Cause
    clock: EpochClock
    cas: tuple[BundleMember, ...]
    roots: tuple[Certificate, ...]
    withdrawn: tuple[str, ...] = ()
    due: int | None = None


@dataclass(frozen=True, slots=True)
class StatementDraft:
    """A statement that nobody has signed yet, with the ``ca.crt`` it is about."""

    statement: Statement
    ca: bytes


def surviving(history: History, now: int, without: Collection[str] = ()) -> tuple[BundleMember, ...]:
    """The CAs that the next bundle carries on: unexpired and not withdrawn, newest by issue first.

    ``without`` are fingerprints of those that this very statement leaves out.
    """
    kept = [ca for ca in history.cas if not ca.is_expired(now) and not ca.withdrawn and ca.sha256 not in without]
    return tuple(BundleMember(ca.epoch, ca.certificate) for ca in reversed(kept))


def still_withdrawn(history: History, now: int, without: Collection[str] = ()) -> tuple[str, ...]:
    """The fingerprints that the next statement lists as withdrawn: left out, by it or before it, and not expired."""
    earlier = [sha256 for sha256, until in history.withdrawn.items() if until > now]
    return tuple(dict.fromkeys([*earlier, *without]))


def check_room(cas: int, roots: int) -> None:
    """Raise BundleFull where a bundle of so many CAs and roots would be refused by agents."""
    if cas + roots > MAX_CERTIFICATES:
        raise BundleFull(
            f"bundle: expected at most {MAX_CERTIFICATES} certificates, found {cas} CAs and {roots} roots; wait until "
            f"an older CA expires"
        )


def compose(
    trust_domain: str, contents: StatementContents, previous: SignedStatement | None, now: int
) -> StatementDraft:
    """The statement over ``contents``, to follow ``previous``. Expired roots are left out.

    Raises:
        BundleFull: more certificates than agents accept.
        StatementError: no CA in it, or a certificate given twice.
    """
    cas = contents.cas
    roots = tuple(root for root in contents.roots if not_after(root) > now)
    check_room(len(cas), len(roots))
    ca = to_pem([member.certificate for member in cas] + [*roots])
    anchors = [_anchor(Role.INTERMEDIATE, member.epoch, member.certificate) for member in cas]
    anchors += [_anchor(Role.ROOT, None, root) for root in roots]
    epoch = cas[0].epoch if cas else 0
    statement = Statement(
        trust_domain=trust_domain,
        sequence=previous.statement.sequence + 1 if previous else 1,
        clock=contents.clock,
        epoch=epoch,
        cause=contents.cause,
        issued_at=now,
        next_update=max(now, contents.clock.prepare_at(epoch + 1) if contents.due is None else contents.due),
        expires_at=anchors[0].not_after if anchors else 0,
        anchors=tuple(anchors),
        withdrawn=contents.withdrawn,
        ca_sha256=Bundle(ca, b"").ca_sha256,
        previous=previous.digest if previous else NO_PREVIOUS,
    )
    return StatementDraft(statement, ca)


def check(bundle: Bundle, trust: Trust, previous: SignedStatement | None, now: int) -> VerifiedBundle:
    """Verify as agents would that trust one of ``trust``'s keys alone and have ``previous`` installed.

    Raises:
        BundleRejected: agents would refuse the bundle; it must not leave the authority.
    """
    known = Known()
    if previous is not None:
        known = Known(Mark(previous.statement.sequence, previous.digest), _reopened(previous, trust))
    for verifier in trust.keys:
        verify(bundle, replace(trust, keys=(verifier,)), known, now)
    return verify(bundle, trust, known, now)


def _reopened(previous: SignedStatement, trust: Trust) -> VerifiedBundle | None:
    """The previous set as an agent has it; None where its signing key has been replaced since."""
    try:
        return reopen(previous.bundle, trust)
    except BundleRejected as error:
        if error.reason is Reason.SIGNATURE:
            return None
        raise


def _anchor(role: Role, epoch: int | None, certificate: Certificate) -> Anchor:
    return Anchor(role, epoch, fingerprint(certificate), not_before(certificate), not_after(certificate))
