"""Mutated bundles, half of them signed again with a trusted key: refused, or they mean what the original meant.

The suite tries 2,000; ``make soak`` sets ``SOAK_MUTATIONS``.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.contract.bundle_mutations import NAMES, ORIGINAL, SITUATIONS, MutationCase, resigned, tampered
from tests.harness.contract.ca_factory import DOMAIN, INSTALLED, TRUST, iso, verified
from tests.harness.measurements import Cell, ReportTable
from tests.harness.soak import report, size
from tidemark.bundle import Bundle
from tidemark.verify import STEPS, BundleRejected, Reason, VerifiedBundle, reopen, verify

pytestmark = pytest.mark.long

MUTATIONS = size("SOAK_MUTATIONS", 2000)
BATCH = 5000
"""As many as are tried in one run of hypothesis, which remembers them all."""
MEANING = verified(ORIGINAL)


Seen = Counter[Reason | None]
"""How many were refused, by reason; None: passed."""


def outcome(candidate: Bundle, situation: MutationCase, seen: Seen) -> VerifiedBundle | None:
    """What verification makes of it; nothing but a refusal may come out otherwise."""
    try:
        passed = verify(candidate, situation.trust, situation.known, situation.now)
    except BundleRejected as refused:
        seen[refused.reason] += 1
        return None
    seen[None] += 1
    return passed


def means_the_original(candidate: Bundle, passed: VerifiedBundle) -> None:
    """Without the key, no change of the files makes them mean anything else."""
    true = {original.digest: original for original in (MEANING, reopen(INSTALLED, TRUST))}
    original = true[passed.digest]
    assert passed.statement == original.statement
    assert passed.certificates == original.certificates
    assert passed.bundle.ca == original.bundle.ca == candidate.ca


def means_what_it_says(candidate: Bundle, passed: VerifiedBundle) -> None:
    """Signed again, it says what was signed, about the very CAs of the original.

    The epoch of an anchor that is not the first is the authority's word alone: it may be one of another clock.
    """
    assert passed.certificates == MEANING.certificates
    assert [replace(anchor, epoch=None) for anchor in passed.statement.anchors] == [
        replace(anchor, epoch=None) for anchor in MEANING.statement.anchors
    ]
    assert passed.statement.anchors[0] == MEANING.statement.anchors[0]
    assert passed.statement.trust_domain == DOMAIN
    assert not {anchor.sha256 for anchor in passed.statement.anchors} & set(passed.statement.withdrawn)
    assert meaning(candidate) == accepted(passed)


def tried(times: int, candidates: st.SearchStrategy[Bundle], judge: Callable[[Bundle, VerifiedBundle], None]) -> Seen:
    """Try so many."""
    seen, unbounded = Seen(), [HealthCheck.too_slow, HealthCheck.data_too_large]
    while (more := times - seen.total()) > 0:

        @settings(max_examples=min(more, BATCH), database=None, suppress_health_check=unbounded)
        @given(candidates, NAMES)
        def check(candidate: Bundle, situation: str) -> None:
            passed = outcome(candidate, SITUATIONS[situation], seen)
            if passed:
                judge(candidate, passed)

        check()
    return seen


def test_mutated_bundle_is_refused_or_means_the_original() -> None:
    foreign = tried(MUTATIONS // 2, tampered(), means_the_original)
    signed = tried(MUTATIONS // 2, resigned(), means_what_it_says)
    both = foreign + signed
    rows: list[list[Cell]] = [[STEPS[reason], reason.value, foreign[reason], signed[reason]] for reason in STEPS]
    rows.append(["", "passed, and means the same", foreign[None], signed[None]])
    rows.append(["", "all", foreign.total(), signed.total()])
    caption = "Mutated bundles, by the step that refused them."
    columns = ["step", "refused as", "without the key", "signed again"]
    report("soak-mutations", "Verification: mutated bundles", ReportTable(caption, columns, rows))
    assert [reason for reason in STEPS if not both[reason]] == [], "every step is reached, and refuses something"
    assert min(foreign[None], signed[None]) > 0, "some mutations change nothing that counts"


def meaning(candidate: Bundle) -> list[Any]:
    """The content of the note, read without the code under test."""
    line = json.loads(candidate.note.decode().split("\n")[1])
    return [
        *(
            line[name]
            for name in ("sequence", "epoch", "epoch_seconds", "validity_seconds", "prepare_seconds", "reason")
        ),
        *(line[name] for name in ("issued_at", "next_update", "expires_at", "withdrawn", "previous")),
        hashlib.sha256(candidate.ca).hexdigest(),
        *([a["role"], a.get("epoch"), a["sha256"], a["not_before"], a["not_after"]] for a in line["anchors"][:-1]),
    ]


def accepted(result: VerifiedBundle) -> list[Any]:
    statement, clock = result.statement, result.statement.clock
    return [
        *(statement.sequence, statement.epoch, clock.epoch_seconds, clock.validity_seconds, clock.prepare_seconds),
        statement.cause.value,
        *(iso(instant) for instant in (statement.issued_at, statement.next_update, statement.expires_at)),
        *(list(statement.withdrawn), statement.previous, statement.ca_sha256),
        *([a.role.value, a.epoch, a.sha256, iso(a.not_before), iso(a.not_after)] for a in statement.anchors[:-1]),
    ]
