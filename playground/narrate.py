"""The run in words: what an event means, the plain narrator (one line an event), and the summary for people."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from playground.observe import Observation
from playground.record import Record, is_good

STAGES = ("detect", "verify", "install", "reload", "prove")


class Narrator(Protocol):
    """Shows a person what happens. ``counting`` is True once an observation was shown: then there is a summary."""

    counting: bool

    def __enter__(self) -> "Narrator":
        """Begin the display."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def tell(self, line: str) -> None:
        """Report something that the playground itself did."""

    def show(self, observation: Observation, record: Record) -> None:
        """Show a new observation of the deployment."""


class News:
    """Finds what is new in each observation, as lines for people."""

    def __init__(self) -> None:
        self._last_event = 0
        self._complete: set[int] = set()

    def lines(self, observation: Observation, record: Record) -> list[str]:
        """One line for each thing that happened since the last call, in the order in which it happened."""
        told = [(at, f"authority: {line}") for at, line in self._authority(observation)]
        for name, journey in observation.journeys:
            told.append((journey["proven_at"] or observation.at, describe_journey(name, journey)))
        for rotation in record.complete():
            if rotation.sequence not in self._complete:
                self._complete.add(rotation.sequence)
                seconds = rotation.issue_to_all_proven(record.agents) or 0.0
                line = (
                    f"ROTATION {len(self._complete)}: epoch {rotation.epoch}, bundle and leaf proven by all "
                    f"{len(record.agents)} agents (the bundle {seconds * 1000:.0f} ms after its first write)"
                )
                told.append((max(rotation.leaf_proven.values()), line))
        # The authority's events carry whole seconds: a stable sort keeps them before what followed from them.
        return [f"{stamp(at)}  {line}" for at, line in sorted(told, key=lambda each: each[0])]

    def _authority(self, observation: Observation) -> list[tuple[float, str]]:
        events = [e for e in observation.authority.get("events", []) if e["number"] > self._last_event]
        if not events:
            return []
        self._last_event = events[-1]["number"]
        leaves = [event for event in events if event["event"] == "leaf_written"]
        told = [(float(event["at"]), describe_event(event)) for event in events if event not in leaves]
        if leaves:
            workloads = ", ".join(event["workload"] for event in leaves)
            causes = ", ".join(sorted({event["cause"] for event in leaves}))
            told.append((float(leaves[-1]["at"]), f"new leaf certificates ({causes}) for {workloads}"))
        return told


def stamp(at: float) -> str:
    """Local time of day, with tenths."""
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 10) % 10}"


_SENTENCES = {
    "prepared": "made the CA of epoch {epoch} ({ca}), statement {sequence} ({cause})",
    "published": "{target} shows statement {sequence} ({outcome}, {seconds} s)",
    "fleet_proven": "every required agent has proven statement {sequence}, {seconds} s after it was made",
    "gate_held": "HELD: the CA of epoch {epoch} may not sign yet, waiting for {waiting}",
    "activated": "the CA of epoch {epoch} ({ca}) signs from now on ({opening}); left behind: {unproven}",
    "gate_overridden": "{who} opened the gate of the CA of epoch {epoch}: {reason}",
    "withdrawal_requested": "the CA of epoch {epoch} ({ca}) is to be withdrawn ({cause}): {reason}",
    "withdrawal_stage_reached": "withdrawal of the CA of epoch {epoch}: {stage}, waiting for {waiting}",
    "anchors_removed": "statement {sequence} leaves out {cas} ({cause})",
    "retired": "deleted {intents}",
    "step_failed": "{step} {target} failed, again in {retry_in} s: {error}",
    "append_conflict": "{step}: somebody else wrote the journal first: {error}",
}


def describe_event(event: Mapping[str, Any]) -> str:
    """One of the authority's events, as a sentence."""
    words = {name: _word(value) for name, value in event.items()}
    sentence = _SENTENCES.get(event["event"])
    if sentence is None:
        return " ".join([event["event"], *(f"{name}={word}" for name, word in words.items() if name != "event")])
    return sentence.format_map(words)


def _word(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_word, value)) or "none"
    if isinstance(value, float):
        return f"{value:.2f}"
    text = str(value)
    return text[:12] if len(text) == 64 else text


def describe_journey(name: str, journey: Mapping[str, Any]) -> str:
    """One set's way through an agent, in a line."""
    line = f"{name}: statement {journey['sequence']} {journey['outcome']}"
    if journey["proven_at"] is not None and journey["swapped_at"] is not None:
        line += f" {(journey['proven_at'] - journey['swapped_at']) * 1000:.0f} ms after the mount moved"
    return f"{line} ({stages_text(journey['stages'])})"


def stages_text(stages: Mapping[str, float]) -> str:
    """Stage durations in milliseconds, in the order in which a set passes them."""
    return ", ".join(f"{stage} {stages[stage] * 1000:.0f}" for stage in STAGES if stage in stages) + " ms"


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

    def show(self, observation: Observation, record: Record) -> None:
        """Print what is new."""
        self.counting = True
        for line in self._news.lines(observation, record):
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
