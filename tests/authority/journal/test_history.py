"""The fold: what the journal says about CAs, statements and who signs."""

from dataclasses import replace

import pytest

from authority.journal.history import EMPTY
from authority.journal.interface import JournalError
from authority.journal.record_types import ActivationRecord, Entry, Opening, StatementRecord
from authority.journal.replay import replay
from tests.harness.authority.journal_builder import EPOCH, START, running
from tidemark.bundle import Bundle, Cause


def test_an_empty_journal_has_no_history() -> None:
    assert replay([]) == EMPTY
    assert EMPTY.newest is None
    assert EMPTY.signing is None
    assert EMPTY.next_sequence == 1
    assert EMPTY.summaries() == ()


def test_ca_is_known_by_its_first_statement() -> None:
    builder, first = running()
    second = builder.prepare(EPOCH + 1, START + 12)
    forced = builder.prepare(EPOCH + 1, START + 14, Cause.FORCED)

    assert [ca.issue_order for ca in builder.history.cas] == [1, 2, 3]
    assert [ca.ca_id for ca in builder.history.cas] == [
        f"epoch-{EPOCH}-1",
        f"epoch-{EPOCH + 1}-2",
        f"epoch-{EPOCH + 1}-3",
    ]
    assert [ca.published_at for ca in builder.history.cas] == [START - 8, START + 12, START + 14]
    assert [ca.forced for ca in builder.history.cas] == [False, False, True]
    assert forced.not_after == START + 20 + 80
    assert second.start == START + 20
    assert second.retire_at == second.not_after + 20
    assert not second.is_expired(second.not_after - 1)
    assert second.is_expired(second.not_after)
    assert builder.history.candidates == (second, forced)
    assert builder.history.find(first.sha256) == builder.history.cas[0]


def test_the_ca_activated_last_signs_and_older_ones_are_no_candidates() -> None:
    builder, first = running()
    second, third = builder.prepare(EPOCH + 1, START + 12), builder.prepare(EPOCH + 2, START + 32)
    assert builder.history.signing == builder.history.find(first.sha256)
    builder.activate(third, START + 40, skipped=(second,))

    assert builder.history.signing == builder.history.find(third.sha256)
    assert builder.history.candidates == ()
    assert [ca.skipped for ca in builder.history.cas] == [False, True, False]
    assert [ca.activated_at for ca in builder.history.cas] == [START, None, START + 40]
    builder.activate(builder.history.cas[0], START + 41)
    assert [ca.signs_again for ca in builder.history.cas] == [True, False, False]


def test_statements_that_contain_a_ca_are_found_by_its_fingerprint() -> None:
    builder, first = running()
    second = builder.prepare(EPOCH + 1, START + 12)
    one, two = (signed.digest for signed in builder.history.statements)
    assert builder.history.containing(first.sha256) == {one, two}
    assert builder.history.containing(second.sha256) == {two}
    assert builder.history.containing("0" * 64) == frozenset()


def test_summaries_show_the_newest_first() -> None:
    builder, first = running()
    builder.prepare(EPOCH + 1, START + 12, Cause.FORCED)
    newest, oldest = builder.history.summaries()
    assert (newest.sequence, newest.epoch, newest.cause, newest.issued_at) == (2, EPOCH + 1, Cause.FORCED, START + 12)
    assert newest.activated_at is None
    assert (oldest.sequence, oldest.ca, oldest.activated_at) == (1, first.sha256, START)
    assert oldest.ca_sha256 == builder.history.statements[0].bundle.ca_sha256


def test_an_adopted_statement_adds_cas_that_are_trusted_but_cannot_sign() -> None:
    lost, _ = running()
    lost.prepare(EPOCH + 1, START + 12)
    adopted = lost.history.statements[-1].bundle
    history = replay([Entry(1, StatementRecord(START + 15, "", adopted))])

    assert [(ca.issue_order, ca.epoch, ca.ca_id) for ca in history.cas] == [(1, EPOCH, ""), (2, EPOCH + 1, "")]
    assert history.next_sequence == 3
    assert history.candidates == ()
    assert history.signing is None


def test_activation_of_compacted_ca_leaves_none_signing() -> None:
    builder, _ = running()
    ghost = Entry(9, ActivationRecord(START, "a" * 64, Opening.GATE))
    assert replay([*builder.entries, ghost]).signing is None


def test_a_record_that_does_not_read_is_named() -> None:
    builder, _ = running()
    record = builder.entries[0].record
    assert isinstance(record, StatementRecord)
    broken = replace(record, bundle=Bundle(record.bundle.ca[:-20], record.bundle.note))
    with pytest.raises(JournalError, match="journal record 1: expected a bundle as it was written"):
        replay([Entry(1, broken)])


def test_a_sequence_that_does_not_rise_is_named() -> None:
    builder, _ = running()
    with pytest.raises(JournalError, match="journal record 5: expected a statement above sequence 1, found 1"):
        replay([builder.entries[0], Entry(5, builder.entries[0].record)])


def test_withdrawal_records_of_one_ca_add_up() -> None:
    builder, first = running()
    asked = builder.withdraw(first, START + 1)
    assert asked.withdrawal is not None
    assert (asked.withdrawal.cause, asked.withdrawal.urgent, asked.withdrawal.position) == (Cause.ROLLBACK, False, 3)
    assert not asked.may_sign
    assert not asked.withdrawn
    assert builder.history.signing == asked  # until another is activated
    again = builder.withdraw(first, START + 2, Cause.REVOCATION)
    assert again.withdrawal is not None
    assert (again.withdrawal.cause, again.withdrawal.at, again.withdrawal.position) == (Cause.REVOCATION, START + 1, 4)
    last = builder.withdraw(first, START + 3, urgent=True)
    assert last.withdrawal is not None
    assert (last.withdrawal.cause, last.withdrawal.urgent, last.withdrawal.position) == (Cause.REVOCATION, True, 4)
    less = builder.withdraw(first, START + 4)
    assert less.withdrawal is not None
    assert (less.withdrawal.cause, less.withdrawal.urgent, less.withdrawal.position) == (Cause.REVOCATION, True, 4)


def test_a_ca_that_a_statement_lists_as_withdrawn_never_signs_again() -> None:
    builder, first = running()
    builder.prepare(EPOCH + 1, START + 12)
    builder.withdraw(first, START + 13)
    bad = builder.remove(first, START + 14)
    assert bad.removal is not None
    assert (bad.removal.sequence, bad.removal.at) == (3, START + 14)
    assert builder.history.signing is None
    assert builder.history.withdrawn == {first.sha256: first.not_after}
    assert first not in builder.history.candidates


def test_adopted_statement_keeps_withdrawals_of_unknown_cas() -> None:
    whole, first = running()
    second = whole.prepare(EPOCH + 1, START + 12)
    whole.withdraw(second, START + 13)
    whole.remove(second, START + 13)
    whole.withdraw(first, START + 13)
    whole.prepare(EPOCH + 1, START + 14, Cause.FORCED)
    whole.remove(first, START + 14)
    newest = whole.history.newest
    assert newest is not None
    backup, same = running()
    adopted = StatementRecord(START + 15, "", newest.bundle)
    history = replay([*backup.entries, Entry(3, adopted)])
    assert set(newest.statement.withdrawn) == {first.sha256, second.sha256}
    assert set(history.withdrawn) == {first.sha256, second.sha256}
    assert history.withdrawn[second.sha256] >= second.not_after  # it is not known when it ends
    assert same.sha256 not in history.withdrawn  # another key of the same epoch
    known = replay([*whole.entries[:2], Entry(3, adopted)])
    assert known.withdrawn[first.sha256] == first.not_after
    assert known.signing is None
