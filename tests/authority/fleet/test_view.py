"""The fleet view: which receipts count, for how long, and where each agent stands."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from authority.fleet.members import PodIdentity
from authority.fleet.registry import FleetRegistry
from authority.fleet.view import (
    ExpectedAgent,
    FleetState,
    ReceiptBook,
    ReceivedReceipt,
    freshness_seconds,
    heartbeat_seconds,
    view,
)
from authority.journal.history import EMPTY
from tests.harness.authority.journal_builder import EPOCH, PLAYGROUND, START, receipt, running
from tidemark.epoch import PRESETS
from tidemark.receipt import AgentState, PodClass, Receipt
from tidemark.verify import Mark

CLOCK = PLAYGROUND.clock
OLD, NEWEST = Mark(1, "1" * 64), Mark(2, "2" * 64)


def pod(name: str = "nats-0", uid: str = "", *, ready: bool = True, since: int = 0) -> ExpectedAgent:
    return ExpectedAgent(name, PodClass.REQUIRED, uid, ready, since)


def book_of(*received: ReceivedReceipt) -> ReceiptBook:
    book = ReceiptBook()
    for one in received:
        book.accept(one)
    return book


def state_at(now: int, book: ReceiptBook, expected: ExpectedAgent) -> FleetState:
    return view([expected], book, NEWEST.digest, CLOCK, now).agents[0].state


@pytest.mark.parametrize(
    ("preset", "heartbeat", "fresh"), [("playground", 5, 20), ("testing", 60, 720), ("production", 60, 10920)]
)
def test_receipt_counts_for_half_an_epoch_and_two_heartbeats(preset: str, heartbeat: int, fresh: int) -> None:
    clock = PRESETS[preset].clock
    assert heartbeat_seconds(clock) == heartbeat
    assert freshness_seconds(clock) == fresh


def test_later_receipt_of_one_start_replaces_the_earlier_only() -> None:
    book = ReceiptBook()
    assert book.accept(ReceivedReceipt(receipt("nats-0", NEWEST, number=7), START, START))
    assert not book.accept(ReceivedReceipt(receipt("nats-0", OLD, number=6), START + 1, START + 1))
    assert not book.accept(ReceivedReceipt(receipt("nats-0", OLD, number=7), START + 1, START + 1))
    last = book.last("nats-0")
    assert last is not None
    assert last.receipt.proven == NEWEST


def test_receipt_of_an_ended_start_never_counts_again() -> None:
    book = ReceiptBook()
    book.accept(ReceivedReceipt(receipt("nats-0", NEWEST, nonce="first", number=900), START, START))
    assert book.accept(ReceivedReceipt(receipt("nats-0", OLD, nonce="second", number=1), START + 1, START + 1))
    assert not book.accept(ReceivedReceipt(receipt("nats-0", NEWEST, nonce="first", number=901), START + 2, START + 2))
    last = book.last("nats-0")
    assert last is not None
    assert last.receipt.nonce == "second"


def test_receipt_does_not_count_for_a_successor_of_the_pod() -> None:
    book = book_of(ReceivedReceipt(receipt("nats-0", NEWEST, uid="old"), START, START))
    assert state_at(START, book, pod(uid="old")) is FleetState.PROVEN
    assert state_at(START, book, pod(uid="new")) is FleetState.MISSING
    assert state_at(START, book, pod(uid="")) is FleetState.PROVEN


@pytest.mark.parametrize(
    ("proven", "installed", "state", "expected"),
    [
        (NEWEST, NEWEST, AgentState.PROVEN, FleetState.PROVEN),
        (NEWEST, NEWEST, AgentState.LEAF_ORPHANED, FleetState.PROVEN),
        (OLD, NEWEST, AgentState.INSTALLED, FleetState.RELOADED),
        (OLD, OLD, AgentState.PROVEN, FleetState.LAGGING),
        (OLD, OLD, AgentState.REVERTED, FleetState.FAILED),
        (OLD, NEWEST, AgentState.RELOAD_REFUSED, FleetState.FAILED),
        (None, None, AgentState.STARTING, FleetState.LAGGING),
    ],
)
def test_state_follows_from_the_receipt_and_the_newest_statement(
    proven: Mark | None, installed: Mark | None, state: AgentState, expected: FleetState
) -> None:
    book = book_of(ReceivedReceipt(receipt("nats-0", proven, installed, state=state), START, START))
    assert state_at(START, book, pod()) is expected


def test_silent_agent_is_missing_once_its_receipt_is_stale() -> None:
    book = book_of(ReceivedReceipt(receipt("nats-0", NEWEST), START, START))
    assert state_at(START + 20, book, pod()) is FleetState.PROVEN
    assert state_at(START + 21, book, pod()) is FleetState.MISSING
    stale = view([pod()], book, NEWEST.digest, CLOCK, START + 21).agents[0]
    assert stale.received is not None
    assert not stale.has_proven({NEWEST.digest})
    assert stale.expected


def test_pod_unready_and_silent_for_too_long_is_not_expected() -> None:
    crashed = pod(ready=False, since=START)
    assert state_at(START + 8, ReceiptBook(), crashed) is FleetState.MISSING
    assert state_at(START + 9, ReceiptBook(), crashed) is FleetState.QUARANTINED
    assert not view([crashed], ReceiptBook(), "", CLOCK, START + 9).agents[0].expected
    assert state_at(START + 9, ReceiptBook(), pod(ready=True, since=START)) is FleetState.MISSING
    received = book_of(ReceivedReceipt(receipt("nats-0", OLD), START + 5, START + 5))
    assert state_at(START + 9, received, crashed) is FleetState.LAGGING


def test_unreadable_list_of_agents_is_not_an_empty_fleet() -> None:
    assert not view(None, ReceiptBook(), "", CLOCK, START).readable
    assert view([], ReceiptBook(), "", CLOCK, START).readable


def test_agents_are_counted_by_state() -> None:
    builder, _ = running()
    builder.prepare(EPOCH + 1, START + 12)
    newest = builder.history.newest
    assert newest is not None
    book = book_of(ReceivedReceipt(receipt("nats-0", builder.mark()), START + 13, START + 13.5))
    fleet = view([pod(), pod("nats-1")], book, newest.digest, CLOCK, START + 14)
    counts = fleet.counts()
    assert (counts[FleetState.PROVEN], counts[FleetState.MISSING], counts[FleetState.FAILED]) == (1, 1, 0)


def test_agents_that_left_are_forgotten() -> None:
    book = book_of(
        ReceivedReceipt(receipt("nats-0", OLD), START, START),
        ReceivedReceipt(receipt("gone", OLD), START, START),
        ReceivedReceipt(receipt("new", OLD), START + 50, START + 50),
    )
    book.prune({"nats-0"}, before=START + 10)
    assert [name for name in ("nats-0", "gone", "new") if book.last(name)] == ["nats-0", "new"]


@dataclass
class Deploying:
    """Implements ``Members``: pods that come and go, as a deployment's do."""

    there: list[ExpectedAgent] = field(default_factory=list)

    def subscribe(self, on_change: Callable[[], None]) -> None:
        pass

    def expected(self) -> list[ExpectedAgent]:
        return self.there

    def admit(self, receipt: Receipt, sender: PodIdentity | None) -> Receipt:
        return receipt


def test_receipts_of_pods_that_have_gone_are_forgotten() -> None:
    members = Deploying()
    registry = FleetRegistry(members, CLOCK)
    for number in range(20):
        now = START + 30 * number
        members.there = [pod(f"orders-{number}")]
        registry.receive(receipt(f"orders-{number}", proven=OLD), None, EMPTY, float(now))
        registry.fleet(EMPTY, now)
    remembered = [number for number in range(20) if registry._receipts.last(f"orders-{number}")]
    assert remembered[-1] == 19
    assert len(remembered) <= 3
