"""What the journal says, folded into the questions that the plan, the API and the sequencers ask; pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from authority.journal import ActivationRecord, Entry, JournalError, OverrideRecord, StatementRecord
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
class EpochCa:
    """A CA of an epoch, as the journal knows it; ``number`` counts CAs by issue, from 1.

    ``intent`` is its name in the issuer, "" where this authority cannot sign with it (found in a target, or written by
    an authority whose journal was lost: trusted until it expires, and no more). ``published_at`` is when its first
    statement was committed; ``clock`` the one it was made under; ``forced`` that its first statement's cause was not
    the rotation; ``activated_at`` is None until it signed; ``skipped`` that a newer one was activated in its place.
    """

    number: int
    intent: str
    epoch: int
    clock: EpochClock
    sha256: str
    certificate: Certificate
    not_after: int
    published_at: int
    first_sequence: int
    forced: bool
    activated_at: int | None = None
    skipped: bool = False
    withdrawn: bool = False

    @property
    def start(self) -> int:
        """When its epoch begins."""
        return self.clock.start(self.epoch)

    @property
    def retire_at(self) -> int:
        """From here on nobody needs the CA or its key: an epoch after its expiry."""
        return self.not_after + self.clock.epoch_seconds

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

    ``digests`` says of each CA which statements contain it.
    """

    head: int
    entries: tuple[Entry, ...]
    statements: tuple[SignedStatement, ...]
    cas: tuple[EpochCa, ...]
    activations: tuple[ActivationRecord, ...]
    overrides: tuple[OverrideRecord, ...]
    digests: Mapping[str, frozenset[str]] = field(repr=False)

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
        """CAs that may be activated one day: issued after the one activated last, by us, not withdrawn; oldest first.

        They may have expired meanwhile.
        """
        last = self.find(self.activations[-1].ca) if self.activations else None
        after = last.number if last else 0
        return tuple(ca for ca in self.cas if ca.number > after and ca.intent and not ca.withdrawn)

    def find(self, sha256: str) -> EpochCa | None:
        """The CA with this fingerprint, if the journal (still) knows it."""
        return next((ca for ca in self.cas if ca.sha256 == sha256), None)

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
            case ActivationRecord():
                activations.append(record)
                if (ca := cas.get(record.ca)) is not None:
                    cas[ca.sha256] = replace(ca, activated_at=record.at, skipped=False)
                cas |= {sha256: replace(cas[sha256], skipped=True) for sha256 in record.skipped if sha256 in cas}
            case OverrideRecord():
                overrides.append(record)
    return History(
        head=entries[-1].position if entries else 0,
        entries=tuple(entries),
        statements=tuple(statements),
        cas=tuple(cas.values()),
        activations=tuple(activations),
        overrides=tuple(overrides),
        digests={sha256: frozenset(digests) for sha256, digests in containing.items()},
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
            first_sequence=statement.sequence,
            forced=statement.cause is not Cause.ROTATION,
        )
        for count, (anchor, epoch, certificate) in enumerate(reversed(new), start=1)
    ]
