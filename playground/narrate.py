"""The run in words: what an event means, the plain narrator (one line an event), and the summary for people."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from playground.observe import Snapshot
from playground.record import Record, is_good


class Narrator(Protocol):
    """Shows a person what happens. ``counting`` is True once a snapshot was shown: from then on there is a summary."""

    counting: bool

    def __enter__(self) -> "Narrator":
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def tell(self, line: str) -> None:
        """Something that the playground itself did."""

    def show(self, snapshot: Snapshot, record: Record) -> None:
        """A new look at the deployment."""


class News:
    """Picks what is new out of successive snapshots, as lines for people."""

    def __init__(self) -> None:
        self._last_event = 0
        self._complete: set[int] = set()

    def lines(self, snapshot: Snapshot, record: Record) -> list[str]:
        """One line for each thing that happened since the last call, oldest first."""
        lines = []
        for event in snapshot.authority.get("events", []):
            if event["number"] > self._last_event:
                self._last_event = event["number"]
                lines.append(stamp(event["at"]) + "  " + describe_event(event))
        for name, journey in snapshot.journeys:
            lines.append(stamp(journey["proven_at"] or snapshot.at) + "  " + describe_journey(name, journey))
        for rotation in record.complete():
            if rotation.sequence not in self._complete:
                self._complete.add(rotation.sequence)
                seconds = rotation.issue_to_all_proven(record.agents) or 0.0
                done = stamp(max(rotation.leaf_proven.values()))
                lines.append(
                    f"{done}  ROTATION {len(self._complete)}: epoch {rotation.epoch}, "
                    f"bundle and leaf proven by all {len(record.agents)} agents "
                    f"(bundle {seconds * 1000:.0f} ms after its first write)"
                )
        return lines


def stamp(at: float) -> str:
    """Local time of day, with tenths."""
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 10) % 10}"


def describe_event(event: Mapping[str, Any]) -> str:
    """One of the authority's events, in a line."""
    details = " ".join(f"{key}={_value(value)}" for key, value in event.items() if key not in {"number", "at", "event"})
    return f"authority: {event['event']} {details}".rstrip()


def _value(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_value, value)) or "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text[:12] if len(text) == 64 else text


def describe_journey(name: str, journey: Mapping[str, Any]) -> str:
    """One set's way through an agent, in a line."""
    line = f"{name}: sequence {journey['sequence']} {journey['outcome']}"
    if journey["proven_at"] is not None and journey["swapped_at"] is not None:
        line += f" {(journey['proven_at'] - journey['swapped_at']) * 1000:.0f} ms after the mount moved"
    return f"{line} ({stages_text(journey['stages'])})"


def stages_text(stages: Mapping[str, float]) -> str:
    """Stage durations in milliseconds."""
    return ", ".join(f"{stage} {seconds * 1000:.0f}" for stage, seconds in stages.items()) + " ms"


class Plain:
    """One plain line an event, for logs and pipes."""

    def __init__(self) -> None:
        self._news = News()
        self.counting = False

    def __enter__(self) -> "Plain":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def tell(self, line: str) -> None:
        """Print the line with the time."""
        print(f"{stamp(time.time())}  {line}", flush=True)

    def show(self, snapshot: Snapshot, record: Record) -> None:
        """Print what is new."""
        self.counting = True
        for line in self._news.lines(snapshot, record):
            print(line, flush=True)


def summary_text(figures: Mapping[str, Any], file: Path) -> str:
    """The summary as a person reads it."""
    proven, expected = figures["proven"], figures["rotations"] * figures["agents"]
    lines = [
        "",
        f"Rotations: {figures['rotations']}, each to be proven by {figures['agents']} agents: "
        f"{proven} of {expected} proven, {figures['reverted']} reverted",
        "",
        f"{'messages':<12}{'published':>12}{'received':>12}{'lost':>8}{'duplicated':>12}{'longest gap':>14}",
    ]
    for kind, counts in figures["messages"].items():
        gap = figures["longest_gap_ms"][kind]
        lines.append(
            f"{kind:<12}{counts['published']:>12,}{counts['received']:>12,}{counts['lost']:>8,}"
            f"{counts['duplicated']:>12,}{_ms(gap):>14}"
        )
    lines += ["", f"{'mount moved → proven':<28}{'p50':>10}{'p99':>10}{'max':>10}{'samples':>10}"]
    for kind, name in (("nats", "nats-server"), ("application", "application")):
        q = figures["swap_to_proven_ms"][kind]
        lines.append(f"{'  ' + name:<28}{_ms(q['p50']):>10}{_ms(q['p99']):>10}{_ms(q['max']):>10}{q['samples']:>10}")
    issue = figures["issue_to_all_proven_ms"]
    lines.append(f"{'issued → proven by all':<28}{_ms(issue['p50']):>10}{'':>10}{_ms(issue['max']):>10}")
    memory, processor = figures["agent_rss_mib"]["max"], figures["agent_cpu_millicores"]["max"]
    verdict = "Nothing was lost, everything was proven." if is_good(figures) else "NOT GOOD: see above."
    lines += ["", f"An agent took at most {memory} MiB and {processor} millicores.", f"{verdict} Figures: {file}"]
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
