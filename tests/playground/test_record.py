"""What a run is summed up as: rotations, proofs, losses, quantiles."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.narrate import summary_text
from playground.record import Record, is_good, quantiles, summary

AGENTS = ("nats-0", "nats-1", "publisher", "consumer")


def bundle(
    sequence: int, published_at: float | None, proven: dict[str, float], leaf: dict[str, float]
) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "epoch": 100 + sequence,
        "published_at": published_at,
        "proven": proven,
        "leaf_proven": leaf,
    }


def everyone(at: float) -> dict[str, float]:
    return {name: at + i / 100 for i, name in enumerate(AGENTS)}


def record(**changes: Any) -> Record:
    made = Record(agents=AGENTS, applications=("publisher", "consumer"), load_since=1000.0)
    counted = {"received": 50, "duplicated": 0, "missing": 0, "highest": 50, "longest_gap_ms": 12.5}
    made.publisher = {"core": {"published": 50}, "jetstream": {"published": 50}}
    made.consumer = {"core": dict(counted), "jetstream": dict(counted)}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_rotation_counts_when_every_agent_proved_bundle_and_leaf() -> None:
    run = record()
    run.note_bundles([bundle(1, 999.0, everyone(1000), everyone(1001)), bundle(2, 1010.0, everyone(1010.2), {})])
    assert run.complete() == []
    run.note_bundles([bundle(2, 1010.0, everyone(1010.2), everyone(1018))])
    assert [rotation.sequence for rotation in run.complete()] == [2]
    figures = summary(run)
    assert (figures["rotations"], figures["proven"], figures["agents"]) == (1, 4, 4)
    assert figures["issue_to_all_proven_ms"] == {"p50": 230.0, "max": 230.0}
    assert is_good(figures)


def test_overtaken_rotation_with_a_missing_proof_fails_the_run() -> None:
    run = record()
    missing = {name: at for name, at in everyone(1018).items() if name != "nats-1"}
    run.note_bundles([bundle(2, 1010.0, everyone(1010.2), missing)])
    assert run.concluded() == []
    run.note_bundles([bundle(3, 1030.0, everyone(1030.2), everyone(1038))])
    figures = summary(run)
    assert (figures["rotations"], figures["proven"]) == (2, 7)
    assert not is_good(figures)
    assert "NOT GOOD" in summary_text(figures, Path("summary.json"))


@pytest.mark.parametrize(("name", "value"), [("received", 49), ("duplicated", 1)])
@pytest.mark.parametrize("kind", ["core", "jetstream"])
def test_one_lost_or_duplicated_message_fails_the_run(kind: str, name: str, value: int) -> None:
    run = record()
    assert run.consumer is not None
    run.consumer[kind][name] = value
    assert not is_good(summary(run))


def test_only_proven_journeys_since_the_load_began_are_counted() -> None:
    run = record()
    journey = {"swapped_at": 1010.0, "proven_at": 1010.05, "outcome": "proven", "stages": {}}
    statuses = [
        journey | {"number": 1, "swapped_at": 900.0},
        journey | {"number": 2},
        journey | {"number": 3, "proven_at": None, "outcome": "reverted"},
    ]
    assert len(run.note_agent("nats-0", {"journeys": statuses})) == 3
    assert run.note_agent("nats-0", {"journeys": statuses}) == []
    figures = summary(run)
    assert figures["swap_to_proven_ms"]["nats"] == {"p50": 50.0, "p99": 50.0, "max": 50.0, "samples": 1}
    assert figures["swap_to_proven_ms"]["application"]["samples"] == 0
    assert figures["reverted"] == 1


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1))
def test_quantiles_are_ordered_values_of_the_sample(values: list[float]) -> None:
    found = quantiles(values)
    assert found["samples"] == len(values)
    p50, p99, most = found["p50"], found["p99"], found["max"]
    assert p50 is not None
    assert p99 is not None
    assert most is not None
    assert p50 <= p99 <= most
    assert math.isclose(most, max(values), abs_tol=0.06)
    assert sum(value <= p99 + 0.06 for value in values) >= 0.99 * len(values)
