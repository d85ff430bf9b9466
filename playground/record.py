"""What a run showed, and the summary of it; pure.

Everything here comes from the programs' own endpoints: the authority's ``/api/v1/bundles`` (when a statement was
published, whose receipt proved it and the leaf of its CA, and when), the agents' ``/status`` (their journeys), and the
applications' counts of numbered messages.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = ("core", "jetstream")


@dataclass(frozen=True, slots=True)
class Rotation:
    """One statement with a new CA, while the load ran. Instants are Unix seconds with fractions.

    ``proven`` and ``leaf_proven`` say for each agent when its receipt arrived that proved the statement, and the leaf
    that its CA signed.
    """

    sequence: int
    epoch: int
    published_at: float
    proven: Mapping[str, float]
    leaf_proven: Mapping[str, float]

    def is_complete(self, agents: Sequence[str]) -> bool:
        """Whether every agent has proven the bundle and the leaf."""
        return all(name in self.leaf_proven and name in self.proven for name in agents)

    def issue_to_all_proven(self, agents: Sequence[str]) -> float | None:
        """Seconds from the publishers' first write to the last agent's receipt for the bundle."""
        if not all(name in self.proven for name in agents):
            return None
        return max(self.proven[name] for name in agents) - self.published_at


def rotations_in(bundles: Sequence[Mapping[str, Any]], since: float) -> list[Rotation]:
    """The rotations that were published after ``since``, oldest first."""
    rotations = [
        Rotation(
            sequence=int(bundle["sequence"]),
            epoch=int(bundle["epoch"]),
            published_at=float(bundle["published_at"]),
            proven=bundle["proven"],
            leaf_proven=bundle["leaf_proven"],
        )
        for bundle in bundles
        if bundle["published_at"] is not None and bundle["published_at"] >= since
    ]
    return sorted(rotations, key=lambda rotation: rotation.sequence)


@dataclass
class Record:
    """Everything that the summary is made of, filled while the playground runs."""

    agents: tuple[str, ...]
    applications: tuple[str, ...]
    load_since: float = math.inf
    rotations: dict[int, Rotation] = field(default_factory=dict)
    journeys: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    publisher: Mapping[str, Any] | None = None
    consumer: Mapping[str, Any] | None = None
    rss_mib: dict[str, float] = field(default_factory=dict)
    cpu_millicores: dict[str, float] = field(default_factory=dict)

    def note_bundles(self, bundles: Sequence[Mapping[str, Any]]) -> None:
        """Take what the authority says about its statements."""
        for rotation in rotations_in(bundles, self.load_since):
            self.rotations[rotation.sequence] = rotation

    def note_agent(self, name: str, status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Take an agent's status; returns the journeys that are new."""
        seen = self.journeys.setdefault(name, {})
        fresh = [journey for journey in status["journeys"] if journey["number"] not in seen]
        seen.update({journey["number"]: journey for journey in fresh})
        return fresh

    def note_memory(self, name: str, rss_mib: float) -> None:
        """Keep the most that an agent ever held, in MiB."""
        self.rss_mib[name] = max(rss_mib, self.rss_mib.get(name, 0.0))

    def complete(self) -> list[Rotation]:
        """The rotations that every agent has proven, bundle and leaf."""
        return [rotation for rotation in self.rotations.values() if rotation.is_complete(self.agents)]

    def concluded(self) -> list[Rotation]:
        """The rotations that are complete, or that a later one has overtaken: they count, for good or bad."""
        newest = max(self.rotations, default=0)
        return [r for sequence, r in sorted(self.rotations.items()) if sequence < newest or r.is_complete(self.agents)]


def summary(record: Record, rotations: int | None = None) -> dict[str, Any]:
    """The content of ``summary.json``; ``rotations`` limits it to the first so many (None: all that concluded)."""
    concluded = record.concluded()[:rotations]
    journeys = {
        name: [j for j in seen.values() if j["swapped_at"] is not None and j["swapped_at"] >= record.load_since]
        for name, seen in record.journeys.items()
    }
    servers = [name for name in record.agents if name not in record.applications]
    issue_to_all = [seconds for r in concluded if (seconds := r.issue_to_all_proven(record.agents)) is not None]
    return {
        "rotations": len(concluded),
        "agents": len(record.agents),
        "proven": sum(1 for r in concluded for name in record.agents if name in r.leaf_proven and name in r.proven),
        "reverted": sum(1 for seen in journeys.values() for journey in seen if journey["outcome"] == "reverted"),
        "messages": {kind: message_counts(record, kind) for kind in KINDS},
        "longest_gap_ms": {kind: _consumed(record, kind, "longest_gap_ms") for kind in KINDS},
        "swap_to_proven_ms": {
            "nats": quantiles(_swap_to_proven(journeys, servers)),
            "application": quantiles(_swap_to_proven(journeys, record.applications)),
        },
        "issue_to_all_proven_ms": {
            "p50": _milliseconds(statistics.median(issue_to_all)) if issue_to_all else None,
            "max": _milliseconds(max(issue_to_all)) if issue_to_all else None,
        },
        "agent_rss_mib": {"max": round(max(record.rss_mib.values(), default=0.0), 1)},
        "agent_cpu_millicores": {"max": round(max(record.cpu_millicores.values(), default=0.0), 1)},
    }


def message_counts(record: Record, kind: str) -> dict[str, int]:
    """How many messages of one kind were published, received, lost and duplicated."""
    published = int(record.publisher[kind]["published"]) if record.publisher else 0
    published = max(published, int(_consumed(record, kind, "highest") or 0))  # the two files are not written at once
    received = int(_consumed(record, kind, "received") or 0)
    duplicated = int(_consumed(record, kind, "duplicated") or 0)
    return {
        "published": published,
        "received": received,
        "lost": max(0, published - received),
        "duplicated": duplicated,
    }


def is_good(figures: Mapping[str, Any]) -> bool:
    """Whether nothing was lost or duplicated and every agent has proven every rotation."""
    messages = figures["messages"].values()
    clean = all(counts["lost"] == 0 and counts["duplicated"] == 0 for counts in messages)
    return clean and figures["proven"] == figures["rotations"] * figures["agents"]


def quantiles(milliseconds: Sequence[float]) -> dict[str, float | int | None]:
    """Median, 99th percentile (nearest rank), maximum and number of samples."""
    ordered = sorted(milliseconds)
    if not ordered:
        return {"p50": None, "p99": None, "max": None, "samples": 0}
    rank = math.ceil(0.99 * len(ordered)) - 1
    return {
        "p50": round(statistics.median(ordered), 1),
        "p99": round(ordered[rank], 1),
        "max": round(ordered[-1], 1),
        "samples": len(ordered),
    }


def _swap_to_proven(journeys: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]) -> list[float]:
    return [
        (journey["proven_at"] - journey["swapped_at"]) * 1000
        for name in names
        for journey in journeys.get(name, ())
        if journey["proven_at"] is not None and journey["outcome"] == "proven"
    ]


def _consumed(record: Record, kind: str, name: str) -> float | None:
    return record.consumer[kind][name] if record.consumer else None


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
