"""Replays the journal: makes the history that the entries add up to; pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from authority.journal.history import AnchorRemoval, EpochCa, History, SignedStatement, Withdrawal
from authority.journal.interface import JournalError, unreadable_bundle
from authority.journal.record_types import (
    ActivationRecord,
    Entry,
    LeafRecord,
    OverrideRecord,
    StatementRecord,
    WithdrawalRecord,
)
from tidemark.bundle import Bundle, Cause, Statement
from tidemark.certificates import Certificate, parse_certificates


def replay(entries: Sequence[Entry]) -> History:
    """The history that the journal's entries, in order, add up to.

    Raises:
        JournalError: a statement does not parse, or its sequence does not rise.
    """
    replayed = _Replay()
    for entry in entries:
        replayed.add(entry)
    return History(
        head=entries[-1].position if entries else 0,
        entries=tuple(entries),
        statements=tuple(replayed.statements),
        cas=tuple(replayed.cas.values()),
        activations=tuple(replayed.activations),
        overrides=tuple(replayed.overrides),
        digests={sha256: frozenset(digests) for sha256, digests in replayed.digests.items()},
        withdrawn=replayed.withdrawn,
        activated_position=replayed.activated_position,
    )


@dataclass(slots=True)
class _Replay:
    """What the entries read so far add up to; fields as in ``History``."""

    statements: list[SignedStatement] = field(default_factory=list)
    cas: dict[str, EpochCa] = field(default_factory=dict)
    activations: list[ActivationRecord] = field(default_factory=list)
    overrides: list[OverrideRecord] = field(default_factory=list)
    digests: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    withdrawn: dict[str, int] = field(default_factory=dict)
    activated_position: int = 0

    def add(self, entry: Entry) -> None:
        """Read the next entry. Raises JournalError."""
        match entry.record:
            case StatementRecord() as record:
                self._add_statement(_signed(entry.position, record))
            case ActivationRecord() as record:
                self._add_activation(entry.position, record)
            case OverrideRecord() as record:
                self.overrides.append(record)
            case WithdrawalRecord() as record:
                if (ca := self.cas.get(record.ca)) is not None:
                    withdrawal = _added_up(ca.withdrawal, record, entry.position)
                    self.cas[ca.sha256] = replace(ca, withdrawal=withdrawal)
            case LeafRecord():
                pass  # for auditors; nothing is decided by it

    def _add_statement(self, signed: SignedStatement) -> None:
        sequence = signed.statement.sequence
        # Rising sequences alone: statements adopted from a target may leave a gap, and two of one number would be an
        # equivocation of ours.
        if self.statements and sequence <= self.statements[-1].statement.sequence:
            raise JournalError(
                f"journal record {signed.position}: expected a statement above sequence "
                f"{self.statements[-1].statement.sequence}, found {sequence}"
            )
        self.statements.append(signed)
        self.cas |= {ca.sha256: ca for ca in _added_cas(signed, self.cas)}
        for anchor in signed.statement.anchors:
            self.digests[anchor.sha256].append(signed.digest)
        self._add_removals(signed)

    def _add_removals(self, signed: SignedStatement) -> None:
        """Note which CAs the statement lists as withdrawn.

        Of a CA that the journal does not know (lost, and the statement adopted from a target) the expiry is not known
        either: the CA cannot have been made for a later epoch than the one due when the statement was issued.
        """
        statement = signed.statement
        latest = max(anchor.not_after for anchor in statement.intermediates)
        latest = max(latest, statement.clock.expiry(statement.clock.newest_due(statement.issued_at)))
        for sha256 in statement.withdrawn:
            ca = self.cas.get(sha256)
            if ca is not None and ca.removal is None:
                removal = AnchorRemoval(statement.sequence, signed.position, signed.at)
                self.cas[sha256] = replace(ca, removal=removal)
            # The journal's own knowledge of the expiry counts, and otherwise the first estimate: later estimates grow.
            if ca is not None or sha256 not in self.withdrawn:
                self.withdrawn[sha256] = ca.not_after if ca else latest

    def _add_activation(self, position: int, record: ActivationRecord) -> None:
        self.activations.append(record)
        self.activated_position = position
        if (ca := self.cas.get(record.ca)) is not None:
            again = ca.activated_at is not None
            self.cas[ca.sha256] = replace(ca, activated_at=record.at, signs_again=again, skipped=False)
        skipped = {sha256: replace(self.cas[sha256], skipped=True) for sha256 in record.skipped if sha256 in self.cas}
        self.cas |= skipped


def _added_up(earlier: Withdrawal | None, record: WithdrawalRecord, position: int) -> Withdrawal:
    """The withdrawal that the records of one CA come to: ``earlier`` ones and this one."""
    latest = Withdrawal(
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
        return latest
    is_stronger = earlier.cause is Cause.ROLLBACK and record.cause is Cause.REVOCATION
    return replace(
        latest,
        cause=record.cause if is_stronger else earlier.cause,
        at=earlier.at,
        position=position if is_stronger else earlier.position,
        urgent=earlier.urgent or record.urgent,
    )


def _signed(position: int, record: StatementRecord) -> SignedStatement:
    try:
        statement, digest, certificates = _read(record.bundle)
    except ValueError as error:  # StatementError, PemError, or another number of certificates
        raise unreadable_bundle(position, error) from None
    return SignedStatement(position, record.at, record.ca_id, record.bundle, statement, digest, certificates)


@lru_cache(maxsize=256)
def _read(bundle: Bundle) -> tuple[Statement, str, tuple[Certificate, ...]]:
    """Parse a bundle; cached, because every replay reads the same few bundles."""
    (statement, digest), certificates = bundle.unverified_statement(), parse_certificates(bundle.ca)
    if len(certificates) != len(statement.anchors):
        raise ValueError(f"expected {len(statement.anchors)} certificates in ca.crt, found {len(certificates)}")
    return statement, digest, certificates


def _added_cas(signed: SignedStatement, known: dict[str, EpochCa]) -> list[EpochCa]:
    """The CAs that this statement is the first to contain, oldest first; only the first anchor can be a CA of ours."""
    statement = signed.statement
    new = [
        (anchor, anchor.epoch, certificate)
        for anchor, certificate in zip(statement.anchors, signed.certificates, strict=True)
        if anchor.epoch is not None and anchor.sha256 not in known
    ]
    return [
        EpochCa(
            issue_order=len(known) + count,
            ca_id=signed.ca_id if anchor == statement.anchors[0] else "",
            epoch=epoch,
            clock=statement.clock,
            sha256=anchor.sha256,
            certificate=certificate,
            not_after=anchor.not_after,
            published_at=signed.at,
            journal_position=signed.position,
            forced=statement.cause is not Cause.ROTATION,
        )
        for count, (anchor, epoch, certificate) in enumerate(reversed(new), start=1)
    ]
