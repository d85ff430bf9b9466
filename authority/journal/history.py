"""What the journal says, folded into the questions that the plan, the API and the sequencers ask; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from authority.journal.record_types import ActivationRecord, Entry, OverrideRecord
from tidemark.bundle import Bundle, Cause, Statement
from tidemark.certificates import Certificate
from tidemark.epoch import EpochClock


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
class AnchorRemoval:
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
    left_out: AnchorRemoval | None = None

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


def sequence_of(intent: str) -> int:
    """The number of the statement that was to bring this CA."""
    return int(intent.rpartition("-")[2])


def distrusting_digests(bad: EpochCa, history: History) -> frozenset[str]:
    """Digests of the statements since ``bad`` was left out: who proves one of them no longer trusts it."""
    if bad.left_out is None:
        return frozenset()
    first = bad.left_out.sequence
    return frozenset(signed.digest for signed in history.statements if signed.statement.sequence >= first)
