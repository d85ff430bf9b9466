"""Which certificates of cert-manager a withdrawal makes due for re-issuance."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from authority.rotation.reissue import FAILURE_SECONDS, Issuance, is_due, outdated_before
from tests.harness.authority.journal_builder import EPOCH, START, revoked, running
from tidemark.bundle import Cause

BEFORE = 1_800_000_000
TOLERANCE = 5
READY = {"type": "Ready", "status": "True", "reason": "Ready", "message": "up to date"}
ONE = Issuance("nats", "nats-server", "7", 2, "tidemark", BEFORE - 600, None, (READY,))


def due(one: Issuance, now: int = BEFORE + 1) -> bool:
    return is_due(one, "tidemark", BEFORE, TOLERANCE, now)


def test_older_leaf_is_due_unless_its_issuance_is_under_way() -> None:
    issuing = {"type": "Issuing", "status": "True", "reason": "Renewing"}
    assert due(ONE)
    assert due(replace(ONE, conditions=(READY, {**issuing, "status": "False"})))
    assert not due(replace(ONE, conditions=(READY, issuing)))
    assert not due(replace(ONE, issuer="letsencrypt"))
    assert not due(replace(ONE, not_before=None)), "it has no leaf yet, and gets its first one"


@given(st.integers(-1000, 1000))
def test_a_leaf_counts_from_its_issue_which_is_a_tolerance_after_it_is_valid(issued: int) -> None:
    assert due(replace(ONE, not_before=BEFORE + issued - TOLERANCE)) is (issued <= 0)


@given(st.integers(-1000, 1000), st.integers(0, 1000))
def test_certificate_whose_reissue_failed_is_left_alone(failed: int, later: int) -> None:
    rests = failed >= 0 and later < failed + FAILURE_SECONDS
    assert due(replace(ONE, failed_at=BEFORE + failed), BEFORE + later) is not rests


def test_nothing_is_outdated_before_the_replacement_signs() -> None:
    builder, bad = running()
    assert outdated_before(builder.history, START + 1) is None
    builder.withdraw(bad, START + 5, Cause.REVOCATION)
    assert outdated_before(builder.history, START + 5) is None
    good = builder.prepare(EPOCH, START + 6, Cause.FORCED)
    assert outdated_before(builder.history, START + 7) is None
    builder.activate(good, START + 10)
    assert outdated_before(builder.history, START + 10) == START + 10


def test_after_removal_a_rotation_asks_for_no_more_leaves() -> None:
    builder, bad, _ = revoked()
    builder.remove(bad, START + 12, Cause.REVOCATION)
    builder.activate(builder.prepare(EPOCH + 1, START + 13), START + 20)
    assert outdated_before(builder.history, START + 21) == START + 10
    assert outdated_before(builder.history, bad.not_after) is None


def test_before_removal_leaves_count_as_for_step_3() -> None:
    builder, _, _ = revoked()
    builder.activate(builder.prepare(EPOCH + 1, START + 13), START + 20)
    assert outdated_before(builder.history, START + 21) == START + 20


def test_urgent_withdrawal_waits_for_its_replacement() -> None:
    builder, bad = running()
    builder.withdraw(bad, START + 5, Cause.REVOCATION, urgent=True)
    builder.replace([bad], START + 6, Cause.REVOCATION, EPOCH)
    assert outdated_before(builder.history, START + 6) is None
    builder.activate(builder.history.cas[-1], START + 7)
    assert outdated_before(builder.history, START + 8) == START + 7


def test_a_ca_that_never_signed_has_left_no_leaves() -> None:
    builder, _ = running()
    builder.withdraw(builder.prepare(EPOCH + 1, START + 7), START + 8)
    assert outdated_before(builder.history, START + 9) is None
