"""Replays the journal: entries in, the history that they add up to out; pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
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
            cas[sha256] = replace(ca, left_out=AnchorRemoval(statement.sequence, signed.position, signed.at))
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
    except ValueError as error:  # StatementError, PemError, or another number of certificates
        raise unreadable_bundle(position, error) from None
    return SignedStatement(position, record.at, record.intent, record.bundle, statement, digest, certificates)


@lru_cache(maxsize=256)
def _read(bundle: Bundle) -> tuple[Statement, str, tuple[Certificate, ...]]:
    """Take a bundle apart (the same few are read again at every fold)."""
    (statement, digest), certificates = bundle.unverified_statement(), parse_certificates(bundle.ca)
    if len(certificates) != len(statement.anchors):
        raise ValueError(f"expected {len(statement.anchors)} certificates in ca.crt, found {len(certificates)}")
    return statement, digest, certificates


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
