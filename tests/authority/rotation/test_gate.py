"""The gate: what opens it, what keeps it closed, and when the last resort comes."""

from dataclasses import replace

import pytest

from authority.fleet.view import FleetView
from authority.journal.history import EpochCa
from authority.journal.record_types import Opening
from authority.rotation.gate import ClosedReason, Gate, gate_of, last_resort_at, ripe_at
from tests.harness.authority.journal_builder import EPOCH, PLAYGROUND, START, JournalBuilder, Pods, running, servers
from tidemark.epoch import PRESETS
from tidemark.receipt import PodClass

NEXT = START + 20
PREPARED = NEXT - 8
CLOCK = PLAYGROUND.clock


@pytest.fixture
def rotating() -> tuple[JournalBuilder, EpochCa]:
    """A deployment that has just prepared the CA of the next epoch."""
    story, _ = running()
    return story, story.prepare(EPOCH + 1, PREPARED)


def look(rotating: tuple[JournalBuilder, EpochCa], pods: Pods, now: int = PREPARED + 1) -> Gate:
    story, ca = rotating
    return gate_of(ca, story.history, pods.view(story, now), CLOCK, now)


def test_it_opens_when_every_required_agent_has_proven_the_ca(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = servers("nats-0", "nats-1")
    pods.prove("nats-0", rotating[0].mark(), PREPARED + 1)
    gate = look(rotating, pods)
    assert (gate.opening, gate.closed, gate.waiting) == (None, ClosedReason.WAITING, ("nats-1",))
    pods.prove("nats-1", rotating[0].mark(), PREPARED + 1)
    gate = look(rotating, pods)
    assert (gate.opening, gate.closed, gate.waiting, gate.unproven) == (Opening.GATE, None, (), ())


def test_a_proof_of_an_older_statement_without_the_ca_does_not_count(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = servers("nats-0")
    pods.prove("nats-0", rotating[0].mark(1), PREPARED + 1)
    assert look(rotating, pods).closed is ClosedReason.WAITING


def test_a_proof_of_a_newer_statement_that_contains_the_ca_counts(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    story, _ = rotating
    story.prepare(EPOCH + 2, PREPARED + 20)
    pods = servers("nats-0")
    pods.prove("nats-0", story.mark(), PREPARED + 21)
    assert look(rotating, pods, PREPARED + 21).opening is Opening.GATE


def test_a_stale_proof_does_not_count(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = servers("nats-0")
    pods.prove("nats-0", rotating[0].mark(), PREPARED)
    assert look(rotating, pods, PREPARED + 20).opening is Opening.GATE
    assert look(rotating, pods, PREPARED + 21).closed is ClosedReason.WAITING


def test_an_empty_fleet_keeps_it_closed(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    assert look(rotating, Pods()).closed is ClosedReason.EMPTY


def test_a_fleet_of_quarantined_agents_alone_is_an_empty_one(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = Pods()
    pods.add("nats-0", ready=False, since=START)
    assert look(rotating, pods).closed is ClosedReason.EMPTY


def test_an_unreadable_fleet_keeps_it_closed(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    story, ca = rotating
    unreadable = FleetView(readable=False, agents=())
    assert gate_of(ca, story.history, unreadable, CLOCK, PREPARED).closed is ClosedReason.UNREADABLE


def test_a_quarantined_agent_holds_nobody_up(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = servers("nats-0")
    pods.add("crashing", ready=False, since=START)
    pods.prove("nats-0", rotating[0].mark(), PREPARED + 1)
    assert look(rotating, pods).opening is Opening.GATE


def test_applications_are_waited_for_until_an_epoch_after_the_start_then_left_behind(
    rotating: tuple[JournalBuilder, EpochCa],
) -> None:
    pods = servers("nats-0")
    pods.add("orders", PodClass.APPLICATION)
    for now in (NEXT, NEXT + 19, NEXT + 20):
        pods.prove("nats-0", rotating[0].mark(), now)
    gate = look(rotating, pods, NEXT + 19)
    assert (gate.closed, gate.waiting, gate.deadline) == (ClosedReason.WAITING, ("orders",), NEXT + 20)
    gate = look(rotating, pods, NEXT + 20)
    assert (gate.opening, gate.waiting, gate.unproven) == (Opening.DEADLINE, (), ("orders",))


def test_the_deadline_counts_from_a_publication_that_came_late() -> None:
    story, _ = running()
    ca = story.prepare(EPOCH + 1, NEXT + 7)
    assert gate_of(ca, story.history, servers("nats-0").view(story, NEXT + 7), CLOCK, NEXT + 7).deadline == NEXT + 27


def test_a_deadline_does_not_open_it_while_nobody_at_all_has_proven(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    pods = Pods()
    pods.add("orders", PodClass.APPLICATION)
    assert look(rotating, pods, NEXT + 30).closed is ClosedReason.SILENT


def test_a_required_agent_is_waited_for_past_the_deadline(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    assert look(rotating, servers("nats-0"), NEXT + 30).closed is ClosedReason.WAITING


def test_an_override_opens_the_gate_of_its_ca_and_of_no_other(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    story, ca = rotating
    story.override(ca, PREPARED + 1)
    gate = look(rotating, servers("nats-0"))
    assert (gate.opening, gate.unproven) == (Opening.OVERRIDE, ("nats-0",))
    other = story.prepare(EPOCH + 2, PREPARED + 20)
    assert (
        gate_of(other, story.history, servers("nats-0").view(story, NEXT), CLOCK, NEXT).closed is ClosedReason.WAITING
    )


def test_a_gate_that_proofs_open_is_not_called_an_override(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    story, ca = rotating
    story.override(ca, PREPARED)
    pods = servers("nats-0")
    pods.prove("nats-0", story.mark(), PREPARED + 1)
    assert look(rotating, pods).opening is Opening.GATE


def test_the_last_resort_comes_an_epoch_before_the_signing_ca_expires() -> None:
    _, signing = running()
    assert last_resort_at(signing, CLOCK) == signing.not_after - 20
    slower, faster = replace(CLOCK, epoch_seconds=26), replace(CLOCK, epoch_seconds=10)
    assert last_resort_at(signing, slower) == signing.not_after - 20
    assert last_resort_at(signing, faster) == signing.not_after - 10


def test_the_last_resort_chooses_no_ca_that_was_not_public_for_p(rotating: tuple[JournalBuilder, EpochCa]) -> None:
    story, ca = rotating
    signing = story.history.signing
    assert signing is not None
    assert ripe_at(ca, signing, CLOCK) == PREPARED + 8
    assert ripe_at(ca, signing, PRESETS["production"].clock) == PREPARED + 8
