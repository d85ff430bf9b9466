"""The gate: what opens it, and what keeps it closed."""

import pytest

from authority.fleet.view import FleetView
from authority.journal.history import EpochCa
from authority.journal.record_types import Opening
from authority.rotation.gate import ClosedReason, Gate, gate_of
from tests.harness.authority.journal_builder import (
    EPOCH,
    PLAYGROUND,
    START,
    JournalBuilder,
    Pods,
    running,
    servers,
    snapshot,
)
from tidemark.receipt import PodClass

NEXT = START + 20
PREPARED = NEXT - 8
CLOCK = PLAYGROUND.clock


@pytest.fixture
def rotating() -> tuple[JournalBuilder, EpochCa]:
    """A deployment that has just prepared the CA of the next epoch."""
    builder, _ = running()
    return builder, builder.prepare(EPOCH + 1, PREPARED)


def gate(rotating: tuple[JournalBuilder, EpochCa], pods: Pods, now: int = PREPARED + 1) -> Gate:
    builder, ca = rotating
    return gate_of(ca, snapshot(builder, pods.view(builder, now), now))


def test_gate_opens_when_every_required_agent_has_proven_ca(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = servers("nats-0", "nats-1")
    pods.prove("nats-0", rotating[0].mark(), PREPARED + 1)
    found = gate(rotating, pods)
    assert (found.opening, found.closed, found.waiting) == (None, ClosedReason.WAITING, ("nats-1",))
    pods.prove("nats-1", rotating[0].mark(), PREPARED + 1)
    found = gate(rotating, pods)
    assert (found.opening, found.closed, found.waiting, found.unproven) == (Opening.GATE, None, (), ())


def test_a_proof_of_an_older_statement_without_the_ca_does_not_count(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = servers("nats-0")
    pods.prove("nats-0", rotating[0].mark(1), PREPARED + 1)
    assert gate(rotating, pods).closed is ClosedReason.WAITING


def test_a_proof_of_a_newer_statement_that_contains_the_ca_counts(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    builder, _ = rotating
    builder.prepare(EPOCH + 2, PREPARED + 20)
    pods = servers("nats-0")
    pods.prove("nats-0", builder.mark(), PREPARED + 21)
    assert gate(rotating, pods, PREPARED + 21).opening is Opening.GATE


def test_a_stale_proof_does_not_count(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = servers("nats-0")
    pods.prove("nats-0", rotating[0].mark(), PREPARED)
    assert gate(rotating, pods, PREPARED + 20).opening is Opening.GATE
    assert gate(rotating, pods, PREPARED + 21).closed is ClosedReason.WAITING


def test_an_empty_fleet_keeps_it_closed(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    assert gate(rotating, Pods()).closed is ClosedReason.EMPTY


def test_a_fleet_of_quarantined_agents_alone_is_an_empty_one(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = Pods()
    pods.add("nats-0", ready=False, since=START)
    assert gate(rotating, pods).closed is ClosedReason.EMPTY


def test_an_unreadable_fleet_keeps_it_closed(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    builder, ca = rotating
    unreadable = FleetView(readable=False, agents=())
    assert gate_of(ca, snapshot(builder, unreadable, PREPARED)).closed is ClosedReason.UNREADABLE


def test_quarantined_agent_is_not_waited_for(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = servers("nats-0")
    pods.add("crashing", ready=False, since=START)
    pods.prove("nats-0", rotating[0].mark(), PREPARED + 1)
    assert gate(rotating, pods).opening is Opening.GATE


def test_applications_are_left_behind_an_epoch_after_start(
    rotating: tuple[JournalBuilder, EpochCa],
) -> None:
    pods = servers("nats-0")
    pods.add("orders", PodClass.APPLICATION)
    for now in (NEXT, NEXT + 19, NEXT + 20):
        pods.prove("nats-0", rotating[0].mark(), now)
    found = gate(rotating, pods, NEXT + 19)
    assert (found.closed, found.waiting, found.deadline) == (ClosedReason.WAITING, ("orders",), NEXT + 20)
    found = gate(rotating, pods, NEXT + 20)
    assert (found.opening, found.waiting, found.unproven) == (Opening.DEADLINE, (), ("orders",))


def test_the_deadline_counts_from_a_publication_that_came_late() -> None:
    builder, _ = running()
    ca = builder.prepare(EPOCH + 1, NEXT + 7)
    assert gate((builder, ca), servers("nats-0"), NEXT + 7).deadline == NEXT + 27


def test_deadline_keeps_gate_closed_while_no_agent_has_proven(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = Pods()
    pods.add("orders", PodClass.APPLICATION)
    assert gate(rotating, pods, NEXT + 30).closed is ClosedReason.SILENT


def test_a_required_agent_is_waited_for_past_the_deadline(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    assert gate(rotating, servers("nats-0"), NEXT + 30).closed is ClosedReason.WAITING


def test_an_override_opens_the_gate_of_its_ca_and_of_no_other(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    builder, ca = rotating
    builder.override(ca, PREPARED + 1)
    found = gate(rotating, servers("nats-0"))
    assert (found.opening, found.unproven) == (Opening.OVERRIDE, ("nats-0",))
    other = builder.prepare(EPOCH + 2, PREPARED + 20)
    assert gate((builder, other), servers("nats-0"), NEXT).closed is ClosedReason.WAITING


def test_a_gate_that_proofs_open_is_not_called_an_override(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    builder, ca = rotating
    builder.override(ca, PREPARED)
    pods = servers("nats-0")
    pods.prove("nats-0", builder.mark(), PREPARED + 1)
    assert gate(rotating, pods).opening is Opening.GATE
