"""The status: what health, receipts and people are told; pure."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.reporting.status import (
    MAX_JOURNEYS,
    AgentIdentity,
    AgentStatus,
    InstalledStatus,
    Journey,
    is_under_way,
    receipt_of,
    to_json,
    unready,
    unstarted,
    warnings_at,
    with_journey,
)
from tidemark.receipt import AgentState, Failure, LeafReport, Level, PodClass, Receipt, TargetReport
from tidemark.verify import Mark

NOW = 1_800_000_000
IDENTITY = AgentIdentity("nats-0", "uid-0", PodClass.REQUIRED, "nonce", "0.1.0")
ONE, TWO = Mark(1, "a" * 64), Mark(2, "b" * 64)
INSTALLED = InstalledStatus(
    ONE, 7, NOW + 100, NOW + 50, ((NOW - 100, NOW + 100), (NOW - 200, NOW + 10)), NOW + 60, 5.0, 20
)
FRESH = AgentStatus(IDENTITY)
WELL = AgentStatus(IDENTITY, AgentState.PROVEN, highest=ONE, installed=INSTALLED, proven=ONE)


def test_workload_may_start_once_a_set_is_installed() -> None:
    assert unstarted(FRESH) == ["no verified set is installed yet"]
    failed = replace(FRESH, failure=Failure("signature", "expected one", NOW))
    assert unstarted(failed) == ["no verified set is installed yet: signature: expected one"]
    assert unstarted(replace(FRESH, installed=INSTALLED)) == []


def test_pod_is_ready_once_workload_has_proven_a_set() -> None:
    assert unready(replace(WELL, proven=None), NOW) == ["the workload has not taken a set yet"]
    assert unready(WELL, NOW) == []
    for state in AgentState:
        assert unready(replace(WELL, state=state, failure=Failure("x", "y", NOW)), NOW) == [], "nothing else has a say"


def test_pod_with_expired_intermediates_is_not_ready() -> None:
    assert unready(WELL, NOW + 100) == []
    assert unready(WELL, NOW + 101) == ["no installed intermediate is valid now"]
    assert unready(WELL, NOW - 201) == ["no installed intermediate is valid now"]


def test_expiry_adds_warnings_and_keeps_pod_ready() -> None:
    names = {at: [warning.name for warning in warnings_at(WELL, NOW + at)] for at in (0, 56, 61, 101)}
    assert names == {
        0: [],
        56: ["bundle_overdue"],
        61: ["bundle_overdue", "leaf_expired"],
        101: ["bundle_expired", "leaf_expired"],
    }
    assert [w.name for w in warnings_at(replace(WELL, newest=2), NOW)] == ["behind"]
    assert warnings_at(replace(WELL, newest=1), NOW) == []


def test_unproven_set_is_under_way() -> None:
    assert not is_under_way(FRESH)
    assert not is_under_way(WELL)
    assert is_under_way(replace(WELL, highest=TWO))
    assert not is_under_way(replace(WELL, highest=TWO, state=AgentState.REVERTED))
    assert not is_under_way(replace(WELL, highest=TWO, failure=Failure("no_process", "", NOW)))


def journey(number: int) -> Journey:
    return Journey(number, 1, "a" * 64, None, None, 0.5, 0.75, "proven", {"detect": 0.25})


@given(st.integers(0, 3 * MAX_JOURNEYS))
def test_last_journeys_are_kept_oldest_first(count: int) -> None:
    journeys: tuple[Journey, ...] = ()
    for number in range(1, count + 1):
        journeys = with_journey(journeys, journey(number))
    assert [j.number for j in journeys] == list(range(1, count + 1))[-MAX_JOURNEYS:]


MARKS = st.none() | st.builds(Mark, st.integers(1, 2**53 - 1), st.just("c" * 64))
TEXTS = st.text(max_size=80)
STATUSES = st.builds(
    AgentStatus,
    identity=st.just(IDENTITY),
    state=st.sampled_from(AgentState),
    targets=st.lists(
        st.builds(TargetReport, TEXTS, st.sampled_from(Level), st.sampled_from(Level), TEXTS), max_size=3
    ).map(tuple),
    highest=MARKS,
    installed=st.none() | st.just(INSTALLED),
    proven=MARKS,
    reverted=MARKS,
    leaf=st.none() | st.just(LeafReport("d" * 64, "CN=x", "e" * 64, "1f", NOW - 5, NOW + 5)),
    failure=st.none() | st.builds(Failure, st.just("reason"), st.text(max_size=3000), st.just(NOW)),
    journeys=st.just((journey(1),)),
    keys=st.lists(TEXTS, max_size=2).map(tuple),
    newest=st.none() | st.integers(0, 9),
    stages=st.just({"detect": 0.5}),
)


@given(STATUSES, st.integers(NOW - 1000, NOW + 1000))
def test_any_status_becomes_json_and_receipt(status: AgentStatus, now: int) -> None:
    shown = json.loads(json.dumps(to_json(status, now)))
    assert shown["state"] == status.state.value
    assert shown["ready"] is (unready(status, now) == [])
    assert shown["journeys"][0]["stages"] == {"detect": 0.25}
    receipt = Receipt.from_json(receipt_of(status, 3, now).to_json())
    assert (receipt.state, receipt.number, receipt.clock) == (status.state, 3, now)
    assert (receipt.proven, receipt.highest, receipt.reverted) == (status.proven, status.highest, status.reverted)
    assert receipt.installed == (status.installed.mark if status.installed else None)
