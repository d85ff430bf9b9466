"""What the records of the journal add up to: statements, CAs, activations and withdrawals; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from authority.journal.record_types import ActivationRecord, Entry, OverrideRecord
from tidemark.bundle import Bundle, Cause, Statement
from tidemark.certificates import Certificate
from tidemark.epoch import EpochClock


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement that the journal holds."""

    position: int
    """The record's place in the journal."""

    at: int
    """Unix seconds; when the statement was committed."""

    ca_id: str
    """Name in the issuer of the CA that the statement adds; "" where it adds none, or was adopted from a target."""

    bundle: Bundle
    statement: Statement
    digest: str

    certificates: tuple[Certificate, ...]
    """Those of ``ca.crt``, in its order."""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The withdrawal of one CA; several records for one CA add up to the strongest."""

    ca: str
    """The CA's fingerprint."""

    cause: Cause
    """ROLLBACK, or REVOCATION where one record asks for it."""

    at: int
    """Unix seconds; when the withdrawal was first asked for."""

    position: int
    """Position of the first record with this ``cause``: the replacement of a revoked CA was issued after it."""

    urgent: bool
    """Whether the CA is removed from the statements at once."""

    automatic: bool
    """Whether the authority rolls back unasked."""

    who: str
    """Who sent the last request."""

    reason: str
    """Why, by the last request."""


@dataclass(frozen=True, slots=True)
class AnchorRemoval:
    """The first statement without a withdrawn CA."""

    sequence: int

    position: int
    """The record's place in the journal."""

    at: int
    """Unix seconds; when the statement was committed."""


@dataclass(frozen=True, slots=True)
class EpochCa:
    """A CA of an epoch, as the journal knows it.

    The class has many fields, because all that is decided about a CA is read from this one value.
    """

    issue_order: int
    """Counts CAs by issue, from 1."""

    ca_id: str
    """The CA's name in the issuer; "" where this authority cannot sign with the CA.

    Such a CA was found in a target, or written by an authority whose journal was lost. It is trusted until it expires.
    """

    epoch: int

    clock: EpochClock
    """The clock that the CA was made under."""

    sha256: str
    """Fingerprint of the certificate."""

    certificate: Certificate

    not_after: int
    """Unix seconds."""

    published_at: int
    """Unix seconds; when the CA's first statement was committed."""

    journal_position: int
    """Position of the record of the CA's first statement."""

    forced: bool
    """Whether the first statement's cause was another than the scheduled rotation."""

    activated_at: int | None = None
    """Unix seconds; when the CA began to sign, the last time; None where it never did."""

    signs_again: bool = False
    """Whether the CA was activated more than once."""

    skipped: bool = False
    """Whether a newer CA was activated in its place."""

    lost: bool = False
    """Whether the issuer was asked and does not hold the CA's key."""

    withdrawal: Withdrawal | None = None
    """Set from the moment that the CA is to be taken out of use."""

    removal: AnchorRemoval | None = None
    """Set once a statement lists the CA as withdrawn."""

    @property
    def withdrawn(self) -> bool:
        """Whether a statement was made without the CA; no later statement contains it."""
        return self.removal is not None

    @property
    def may_sign(self) -> bool:
        """Whether the CA is ours, the issuer holds its key, and no withdrawal was asked for."""
        return bool(self.ca_id) and not self.lost and self.withdrawal is None and self.removal is None

    @property
    def start(self) -> int:
        """When the CA's epoch begins (Unix seconds)."""
        return self.clock.start(self.epoch)

    @property
    def retire_at(self) -> int:
        """When the CA and its key may be deleted: an epoch after its expiry (Unix seconds)."""
        return self.not_after + self.clock.epoch_seconds

    def signed_since_activation(self, leaf_not_before: int, tolerance_seconds: int) -> bool:
        """Whether a leaf of this CA was signed since the CA was last activated.

        A CA that was activated once has signed no leaf before. For any other CA the leaf's NotBefore decides, which is
        a tolerance before the issue. It decides there alone, because the issuer's clock may be behind ours.
        """
        return not self.signs_again or leaf_not_before + tolerance_seconds >= (self.activated_at or 0)

    def is_expired(self, now: int) -> bool:
        """Whether the CA can no longer sign or be trusted."""
        return now >= self.not_after


@dataclass(frozen=True, slots=True)
class StatementSummary:
    """A statement in short, for people and the API.

    Ten fields, as the API shows them.
    """

    sequence: int
    epoch: int
    cause: Cause
    digest: str
    ca_sha256: str
    issued_at: int
    expires_at: int

    ca: str
    """Fingerprint of the statement's first CA."""

    activated_at: int | None
    """Unix seconds; when that CA was activated last; None where it was not."""

    skipped: bool
    """Whether a newer CA was activated in its place."""


@dataclass(frozen=True, slots=True)
class History:
    """The replayed journal.

    Nine fields: each is one part of what the records add up to, and all are read at once from one value.
    """

    head: int
    """Position of the last record, 0 for an empty journal."""

    entries: tuple[Entry, ...]

    statements: tuple[SignedStatement, ...]
    """By sequence, oldest first."""

    cas: tuple[EpochCa, ...]
    """By order of issue, oldest first."""

    activations: tuple[ActivationRecord, ...]
    overrides: tuple[OverrideRecord, ...]

    digests: Mapping[str, frozenset[str]] = field(repr=False)
    """By a CA's fingerprint, the digests of the statements that contain the CA."""

    withdrawn: Mapping[str, int] = field(default_factory=dict)
    """By the fingerprint of each withdrawn CA, until when (Unix seconds) statements must list it."""

    activated_position: int = 0
    """Position of the last activation, 0 for none."""

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
        """The CA that was activated last, expired or not; None where it was withdrawn, or none ever was activated."""
        ca = self.find(self.activations[-1].ca) if self.activations else None
        return None if ca is None or ca.withdrawn else ca

    def signing_at(self, now: int) -> EpochCa | None:
        """The signing CA, if it has not expired at ``now``."""
        signing = self.signing
        return None if signing is None or signing.is_expired(now) else signing

    @property
    def last_activated_at(self) -> int:
        """When a CA was activated last (Unix seconds), 0 for never."""
        return self.activations[-1].at if self.activations else 0

    @property
    def candidates(self) -> tuple[EpochCa, ...]:
        """CAs that may sign and were issued after the CA that was activated last; oldest first, expired ones too."""
        last = self.find(self.activations[-1].ca) if self.activations else None
        after = last.issue_order if last else 0
        return tuple(ca for ca in self.cas if ca.issue_order > after and ca.may_sign)

    def highest_prepared(self, clock: EpochClock) -> int:
        """The highest epoch that has a CA of ours, withdrawn or not, counting by this clock's D; -1 where none has.

        A CA that was lost, and not withdrawn, does not count: another CA is made for its epoch.
        """
        made = [ca for ca in self.cas if ca.ca_id and (ca.withdrawal or ca.withdrawn or not ca.lost)]
        return max((ca.epoch for ca in made if ca.clock.epoch_seconds == clock.epoch_seconds), default=-1)

    def ca_id_for(self, epoch: int) -> str:
        """The name in the issuer of a CA of this epoch that the next statement is to add."""
        return f"epoch-{epoch}-{self.next_sequence}"

    def find(self, sha256: str) -> EpochCa | None:
        """The CA with this fingerprint, if the journal (still) knows it."""
        return next((ca for ca in self.cas if ca.sha256 == sha256), None)

    def held_by(self, issuer: Mapping[str, str]) -> "History":
        """The same history, with the CAs marked as lost whose keys the issuer does not hold.

        ``issuer`` has the fingerprints of its CAs by their names.
        """
        lost = {ca.sha256 for ca in self.cas if ca.ca_id and issuer.get(ca.ca_id) != ca.sha256}
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


def sequence_of(ca_id: str) -> int:
    """The number of the statement that was to bring the CA of this name."""
    return int(ca_id.rpartition("-")[2])


def distrusting_digests(withdrawn_ca: EpochCa, history: History) -> frozenset[str]:
    """Digests of the statements since the CA was removed: an agent that proves one of them no longer trusts the CA."""
    if withdrawn_ca.removal is None:
        return frozenset()
    first = withdrawn_ca.removal.sequence
    return frozenset(signed.digest for signed in history.statements if signed.statement.sequence >= first)
