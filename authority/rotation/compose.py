"""Composes a statement from certificates, and checks the signed result with the agents' own verifier; pure.

A signed statement is committed only after ``check`` accepted it (docs/architecture.md, invariant 9).
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
    """What a statement is to say."""

    cause: Cause

    clock: EpochClock
    """The clock that the first CA was made under."""

    cas: tuple[BundleMember, ...]
    """The trusted CAs, newest by issue first."""

    roots: tuple[Certificate, ...]

    withdrawn: tuple[str, ...] = ()
    """Fingerprints of the CAs that are listed as withdrawn."""

    due: int | None = None
    """Unix seconds; when the next statement is due. None: when the CA after the first is prepared."""


@dataclass(frozen=True, slots=True)
class StatementDraft:
    """An unsigned statement."""

    statement: Statement

    ca: bytes
    """The ``ca.crt`` that the statement is about."""


def surviving(history: History, now: int, without: Collection[str] = ()) -> tuple[BundleMember, ...]:
    """The CAs that the next bundle still holds: unexpired and not withdrawn, newest by issue first.

    ``without`` are fingerprints of the CAs that this very statement removes.
    """
    kept = [ca for ca in history.cas if not ca.is_expired(now) and not ca.withdrawn and ca.sha256 not in without]
    return tuple(BundleMember(ca.epoch, ca.certificate) for ca in reversed(kept))


def still_withdrawn(history: History, now: int, without: Collection[str] = ()) -> tuple[str, ...]:
    """The fingerprints that the next statement lists as withdrawn: of CAs removed by now that have not expired.

    ``without`` are fingerprints of the CAs that this very statement removes.
    """
    earlier = [sha256 for sha256, until in history.withdrawn.items() if until > now]
    return tuple(dict.fromkeys([*earlier, *without]))


def check_room(cas: int, roots: int) -> None:
    """Raise BundleFull where agents would refuse a bundle of so many CAs and roots."""
    if cas + roots > MAX_CERTIFICATES:
        raise BundleFull(
            f"bundle: expected at most {MAX_CERTIFICATES} certificates, found {cas} CAs and {roots} roots; wait until "
            f"an older CA expires"
        )


def compose(
    trust_domain: str, contents: StatementContents, previous: SignedStatement | None, now: int
) -> StatementDraft:
    """The statement over ``contents`` that follows ``previous``; without expired roots.

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
    """Verify as agents do that have ``previous`` installed, by all keys of ``trust``, and by each key alone.

    Raises:
        BundleRejected: agents would refuse the bundle; it must not leave the authority.
    """
    known = Known()
    if previous is not None:
        known = Known(Mark(previous.statement.sequence, previous.digest), _reopened(previous, trust))
    # By each key alone: while a key is replaced, some agents have the old trust file and some the new one.
    for verifier in trust.keys:
        verify(bundle, replace(trust, keys=(verifier,)), known, now)
    return verify(bundle, trust, known, now)


def _reopened(previous: SignedStatement, trust: Trust) -> VerifiedBundle | None:
    """The previous bundle as an agent has it installed; None where its signing key has been replaced since."""
    try:
        return reopen(previous.bundle, trust)
    except BundleRejected as error:
        if error.reason is Reason.SIGNATURE:
            return None
        raise


def _anchor(role: Role, epoch: int | None, certificate: Certificate) -> Anchor:
    return Anchor(role, epoch, fingerprint(certificate), not_before(certificate), not_after(certificate))
