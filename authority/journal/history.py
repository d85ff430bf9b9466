"""What the journal says, folded into the questions that the plan, the API and the sequencers ask; pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from authority.journal.interface import (
    ActivationRecord,
    Entry,
    JournalError,
    LeafRecord,
    OverrideRecord,
    StatementRecord,
    WithdrawalRecord,
)
from tidemark import note as signed_note
from tidemark.bundle import Bundle, Cause, Statement, StatementError, digest_of
from tidemark.certificates import Certificate, PemError, parse_certificates
from tidemark.epoch import EpochClock
from tidemark.note import NoteError


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement that the journal holds.

    ``position`` is its place in the journal, ``at`` when it was committed; ``certificates`` are those of its
    ``ca.crt``; ``intent`` names the CA it adds in the issuer ("" where it adds none, or was adopted from a target).
    """

    position: int
    at: int
    intent: str
    bundle: Bundle
    statement: Statement
    digest: str
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What the records say about one CA that is taken out of use; several for one CA add up to the strongest.

    ``at`` is when it was first asked for; ``position`` that of the record that made it what it is by ``cause``: a
    revocation's replacement is a CA that was issued after it. ``who`` and ``reason`` are the last record's.
    """

    ca: str
    cause: Cause
    at: int
    position: int
    urgent: bool
    automatic: bool
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The first statement without a withdrawn CA: its number, its place in the journal, and when it was committed."""

    sequence: int
    position: int
    at: int


@dataclass(frozen=True, slots=True)
class EpochCa:
    """A CA of an epoch, as the journal knows it; ``number`` counts CAs by issue, from 1.

    ``intent`` is its name in the issuer, "" where this authority cannot sign with it (found in a target, or written by
    an authority whose journal was lost: trusted until it expires, and no more). ``published_at`` is when its first
    statement was committed, ``position`` that record's; ``clock`` the one it was made under; ``forced`` that its first
    statement's cause was not the rotation; ``activated_at`` is when it began to sign (again), None where it never did;
    ``signs_again`` that this was not the first time; ``skipped`` that a newer one was activated in its place; ``lost``
    that the issuer was looked at and has not got its key (any more). ``withdrawal`` is set from the moment that it is
    to be taken out of use, ``left_out`` once a statement lists it as withdrawn.
    """

    number: int
    intent: str
    epoch: int
    clock: EpochClock
    sha256: str
    certificate: Certificate
    not_after: int
    published_at: int
    position: int
    first_sequence: int
    forced: bool
    activated_at: int | None = None
    signs_again: bool = False
    skipped: bool = False
    lost: bool = False
    withdrawal: Withdrawal | None = None
    left_out: LeftOut | None = None

    @property
    def withdrawn(self) -> bool:
        """Whether statements leave it out, for ever."""
        return self.left_out is not None

    @property
    def may_sign(self) -> bool:
        """Whether it is ours, its key is there, and nobody has asked for its withdrawal."""
        return bool(self.intent) and not self.lost and self.withdrawal is None and self.left_out is None

    @property
    def start(self) -> int:
        """When its epoch begins."""
        return self.clock.start(self.epoch)

    @property
    def retire_at(self) -> int:
        """From here on nobody needs the CA or its key: an epoch after its expiry."""
        return self.not_after + self.clock.epoch_seconds

    def signed_since_activation(self, leaf_not_before: int, tolerance_seconds: int) -> bool:
        """Whether a leaf of this CA was signed since it was activated: certain where it was so but once.

        Else its NotBefore tells, a tolerance before the issue. By whose clock that is would count for every leaf
        otherwise: OpenBao's may be a moment behind ours.
        """
        return not self.signs_again or leaf_not_before + tolerance_seconds >= (self.activated_at or 0)

    def is_expired(self, now: int) -> bool:
        """Whether it can no longer sign or be trusted."""
        return now >= self.not_after


@dataclass(frozen=True, slots=True)
class StatementSummary:
    """A statement in a few words, for people and the API.

    ``ca`` is the fingerprint of its first CA, which was activated (for the first time, with whatever statement) at
    ``activated_at``; None where it has not been.
    """

    sequence: int
    epoch: int
    cause: Cause
    digest: str
    ca_sha256: str
    issued_at: int
    expires_at: int
    ca: str
    activated_at: int | None
    skipped: bool


@dataclass(frozen=True, slots=True)
class History:
    """The folded journal. ``head`` is the last position; CAs stand in order of issue, oldest first.

    ``digests`` says of each CA which statements contain it; ``withdrawn`` until when a statement must list each CA that
    was ever left out; ``activated_position`` is where the last activation stands (0: none).
    """

    head: int
    entries: tuple[Entry, ...]
    statements: tuple[SignedStatement, ...]
    cas: tuple[EpochCa, ...]
    activations: tuple[ActivationRecord, ...]
    overrides: tuple[OverrideRecord, ...]
    digests: Mapping[str, frozenset[str]] = field(repr=False)
    withdrawn: Mapping[str, int] = field(default_factory=dict)
    activated_position: int = 0

    @property
    def newest(self) -> SignedStatement | None:
        """The statement with the highest sequence."""
        return self.statements[-1] if self.statements else None

    @property
    def next_sequence(self) -> int:
        """The number of the statement to come."""
        return self.newest.statement.sequence + 1 if self.newest else 1

    @property
    def signing(self) -> EpochCa | None:
        """The CA activated last, expired or not; None where it was withdrawn or none ever was."""
        ca = self.find(self.activations[-1].ca) if self.activations else None
        return None if ca is None or ca.withdrawn else ca

    @property
    def candidates(self) -> tuple[EpochCa, ...]:
        """CAs that may be activated one day: issued after the one activated last, and may sign; oldest first.

        They may have expired meanwhile.
        """
        last = self.find(self.activations[-1].ca) if self.activations else None
        after = last.number if last else 0
        return tuple(ca for ca in self.cas if ca.number > after and ca.may_sign)

    def highest_prepared(self, clock: EpochClock) -> int:
        """The highest epoch that has a CA of ours, withdrawn or not, counting by this clock's D; -1 where none has.

        One that was lost before anybody withdrew it does not count: its epoch is to have another.
        """
        made = [ca for ca in self.cas if ca.intent and (ca.withdrawal or ca.withdrawn or not ca.lost)]
        return max((ca.epoch for ca in made if ca.clock.epoch_seconds == clock.epoch_seconds), default=-1)

    def intent_for(self, epoch: int) -> str:
        """The name of a CA of this epoch that the next statement is to add."""
        return f"epoch-{epoch}-{self.next_sequence}"

    def find(self, sha256: str) -> EpochCa | None:
        """The CA with this fingerprint, if the journal (still) knows it."""
        return next((ca for ca in self.cas if ca.sha256 == sha256), None)

    def held_by(self, issuer: Mapping[str, str]) -> "History":
        """The same, by what the issuer holds (fingerprints by intent): a CA that it cannot sign with is lost."""
        lost = {ca.sha256 for ca in self.cas if ca.intent and issuer.get(ca.intent) != ca.sha256}
        return replace(self, cas=tuple(replace(ca, lost=ca.sha256 in lost) for ca in self.cas)) if lost else self

    def containing(self, sha256: str) -> frozenset[str]:
        """Digests of the statements that contain this CA."""
        return self.digests.get(sha256, frozenset())

    def summaries(self) -> tuple[StatementSummary, ...]:
        """Every statement that the journal still holds, newest first."""
        return tuple(self._summary(signed.statement, signed.digest) for signed in reversed(self.statements))

    def _summary(self, statement: Statement, digest: str) -> StatementSummary:
        first = statement.anchors[0]
        ca = self.find(first.sha256)
        return StatementSummary(
            sequence=statement.sequence,
            epoch=statement.epoch,
            cause=statement.cause,
            digest=digest,
            ca_sha256=statement.ca_sha256,
            issued_at=statement.issued_at,
            expires_at=statement.expires_at,
            ca=first.sha256,
            activated_at=ca.activated_at if ca else None,
            skipped=ca.skipped if ca else False,
        )


EMPTY = History(head=0, entries=(), statements=(), cas=(), activations=(), overrides=(), digests={})


def fold(entries: Sequence[Entry]) -> History:
    """Fold the journal's entries, which stand in order.

    Raises:
        JournalError: a statement in it does not read, or its sequence does not rise.
    """
    statements: list[SignedStatement] = []
    cas: dict[str, EpochCa] = {}
    activations: list[ActivationRecord] = []
    overrides: list[OverrideRecord] = []
    containing: defaultdict[str, list[str]] = defaultdict(list)
    withdrawn: dict[str, int] = {}
    activated_position = 0
    for entry in entries:
        record = entry.record
        match record:
            case StatementRecord():
                signed = _signed(entry.position, record)
                if statements and signed.statement.sequence <= statements[-1].statement.sequence:
                    raise JournalError(
                        f"journal record {entry.position}: expected a statement above sequence "
                        f"{statements[-1].statement.sequence}, found {signed.statement.sequence}"
                    )
                statements.append(signed)
                cas |= {ca.sha256: ca for ca in _added(signed, cas)}
                for anchor in signed.statement.anchors:
                    containing[anchor.sha256].append(signed.digest)
                _leave_out(signed, cas, withdrawn)
            case ActivationRecord():
                activations.append(record)
                activated_position = entry.position
                if (ca := cas.get(record.ca)) is not None:
                    again = ca.activated_at is not None
                    cas[ca.sha256] = replace(ca, activated_at=record.at, signs_again=again, skipped=False)
                cas |= {sha256: replace(cas[sha256], skipped=True) for sha256 in record.skipped if sha256 in cas}
            case OverrideRecord():
                overrides.append(record)
            case WithdrawalRecord():
                if (ca := cas.get(record.ca)) is not None:
                    cas[ca.sha256] = replace(ca, withdrawal=_added_up(ca.withdrawal, record, entry.position))
            case LeafRecord():
                pass  # tells who holds what; nothing follows from it
    return History(
        head=entries[-1].position if entries else 0,
        entries=tuple(entries),
        statements=tuple(statements),
        cas=tuple(cas.values()),
        activations=tuple(activations),
        overrides=tuple(overrides),
        digests={sha256: frozenset(digests) for sha256, digests in containing.items()},
        withdrawn=withdrawn,
        activated_position=activated_position,
    )


def _leave_out(signed: SignedStatement, cas: dict[str, EpochCa], withdrawn: dict[str, int]) -> None:
    """Take up what the statement says about withdrawn CAs.

    Of a CA that the journal does not know (lost, and a statement adopted from a target) the expiry is not known
    either: it cannot have been made for a later epoch than the one due when the statement was issued.
    """
    statement = signed.statement
    latest = max(anchor.not_after for anchor in statement.intermediates)
    latest = max(latest, statement.clock.expiry(statement.clock.newest_due(statement.issued_at)))
    for sha256 in statement.withdrawn:
        ca = cas.get(sha256)
        if ca is not None and ca.left_out is None:
            cas[sha256] = replace(ca, left_out=LeftOut(statement.sequence, signed.position, signed.at))
        if ca is not None or sha256 not in withdrawn:
            withdrawn[sha256] = ca.not_after if ca else latest


def _added_up(earlier: Withdrawal | None, record: WithdrawalRecord, position: int) -> Withdrawal:
    """One withdrawal out of all that was asked for one CA."""
    asked = Withdrawal(
        ca=record.ca,
        cause=record.cause,
        at=record.at,
        position=position,
        urgent=record.urgent,
        automatic=record.automatic,
        who=record.who,
        reason=record.reason,
    )
    if earlier is None:
        return asked
    is_stronger = earlier.cause is Cause.ROLLBACK and record.cause is Cause.REVOCATION
    return replace(
        asked,
        cause=record.cause if is_stronger else earlier.cause,
        at=earlier.at,
        position=position if is_stronger else earlier.position,
        urgent=earlier.urgent or record.urgent,
    )


def _signed(position: int, record: StatementRecord) -> SignedStatement:
    try:
        statement, digest, certificates = _read(record.bundle)
    except (NoteError, StatementError, PemError, ValueError) as error:
        raise JournalError(
            f"journal record {position}: expected a bundle as it was written, found one that does not read ({error}); "
            f"restore the journal from a backup"
        ) from None
    return SignedStatement(position, record.at, record.intent, record.bundle, statement, digest, certificates)


@lru_cache(maxsize=256)
def _read(bundle: Bundle) -> tuple[Statement, str, tuple[Certificate, ...]]:
    """Take a bundle apart (the same few are read again at every fold)."""
    text = signed_note.parse(bundle.note).text
    statement, certificates = Statement.parse(text), parse_certificates(bundle.ca)
    if len(certificates) != len(statement.anchors):
        raise ValueError(f"expected {len(statement.anchors)} certificates in ca.crt, found {len(certificates)}")
    return statement, digest_of(text), certificates


def _added(signed: SignedStatement, known: dict[str, EpochCa]) -> list[EpochCa]:
    """The CAs that this statement is the first to contain, oldest first; only its first anchor can be ours."""
    statement = signed.statement
    new = [
        (anchor, anchor.epoch, certificate)
        for anchor, certificate in zip(statement.anchors, signed.certificates, strict=True)
        if anchor.epoch is not None and anchor.sha256 not in known
    ]
    return [
        EpochCa(
            number=len(known) + count,
            intent=signed.intent if anchor == statement.anchors[0] else "",
            epoch=epoch,
            clock=statement.clock,
            sha256=anchor.sha256,
            certificate=certificate,
            not_after=anchor.not_after,
            published_at=signed.at,
            position=signed.position,
            first_sequence=statement.sequence,
            forced=statement.cause is not Cause.ROTATION,
        )
        for count, (anchor, epoch, certificate) in enumerate(reversed(new), start=1)
    ]
