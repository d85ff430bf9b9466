"""One live screen for a terminal: where in the epoch we are, who signs, every agent, messages, the last events."""

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from playground.narrate import News, stages_text, stamp
from playground.observe import Observation
from playground.record import KINDS, Record, message_counts

_COLOURS = {"proven": "green", "installed": "yellow", "starting": "yellow", "reverted": "red", "reload_refused": "red"}


class Screen:
    """Redraws the whole picture with each look."""

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(), auto_refresh=False, screen=False, transient=True)
        self._console = self._live.console
        self._events: deque[str] = deque(maxlen=200)
        self._news = News()
        self._last: dict[str, Mapping[str, Any]] = {}
        self.counting = False

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def tell(self, line: str) -> None:
        """Add the line to the events; before the first look they are all there is to show."""
        self._events.append(f"{stamp(time.time())}  {line}")
        if not self.counting:
            self._live.update(Panel("\n".join(self._events), title="Tidemark playground: starting"), refresh=True)

    def show(self, observation: Observation, record: Record) -> None:
        """Draw a new look."""
        self.counting = True
        self._events.extend(self._news.lines(observation, record))
        self._last.update(dict(observation.journeys))
        parts: list[RenderableType] = [
            self._epoch(observation, record),
            self._agents(observation, record),
            _messages(record),
        ]
        taken = len(record.agents) + len(KINDS) + 19  # the frames and headings of the tables, and a spare line
        room = max(3, self._console.size.height - taken)
        lines = Text("\n".join(list(self._events)[-room:]), no_wrap=True, overflow="ellipsis")
        parts.append(Panel(lines, title="Events", title_align="left"))
        self._live.update(Group(*parts), refresh=True)

    def _epoch(self, observation: Observation, record: Record) -> RenderableType:
        status = observation.authority
        if not status:
            return Panel("the authority does not answer", title="Tidemark playground", title_align="left")
        epoch, signing = status["epoch"], status["signing"]
        length, passed = epoch["ends"] - epoch["started"], observation.at - epoch["started"]
        grid = Table.grid(padding=(0, 1))
        grid.add_row("epoch", f"{epoch['number']}", ProgressBar(total=length, completed=passed, width=40))
        grid.add_row(
            "", "", f"{passed:.0f} of {length} s; next CA in {max(0, epoch['prepare_at'] - observation.at):.0f} s"
        )
        signs = f"CA of epoch {signing['epoch']}" if signing else "none"
        ends = f"{signing['sha256'][:12]}, ends in {signing['not_after'] - observation.at:.0f} s" if signing else ""
        grid.add_row("signs", signs, ends)
        concluded = record.concluded()
        grid.add_row(
            "rotations", f"{len(record.complete())}", f"of {len(concluded)} proven by all {len(record.agents)}"
        )
        return Panel(grid, title="Tidemark playground", title_align="left")

    def _agents(self, observation: Observation, record: Record) -> RenderableType:
        table = Table(expand=True, title="Agents", title_justify="left")
        for heading in ("pod", "state", "bundle", "proven", "leaf by"):
            table.add_column(heading, no_wrap=True)
        table.add_column("moved → proven", justify="right", no_wrap=True)
        table.add_column("stages", no_wrap=True, ratio=1)
        table.add_column("MiB", justify="right")
        for name in record.agents:
            status = observation.agents.get(name)
            memory = f"{record.rss_mib.get(name, 0):.0f}"
            if status is None:
                table.add_row(name, Text("silent", "red"), "", "", "", "", "", memory)
                continue
            state = Text(status["state"], _COLOURS.get(status["state"], "white"))
            journey = self._last.get(name)
            total, stages = "", ""
            if journey is not None:
                stages = stages_text(journey["stages"])
                if journey["proven_at"] is not None and journey["swapped_at"] is not None:
                    total = f"{(journey['proven_at'] - journey['swapped_at']) * 1000:.0f} ms"
            table.add_row(
                name,
                state,
                _sequence(status["installed"]),
                _sequence(status["proven"]),
                _issuer(status),
                total,
                stages,
                memory,
            )
        return table


def _messages(record: Record) -> RenderableType:
    table = Table(expand=True, title="Messages", title_justify="left")
    table.add_column("kind")
    for heading in ("published", "received", "missing", "duplicated", "longest gap"):
        table.add_column(heading, justify="right")
    for kind in KINDS:
        counts = message_counts(record, kind)
        missing = record.consumer[kind]["missing"] if record.consumer else 0
        gap = record.consumer[kind]["longest_gap_ms"] if record.consumer else None
        table.add_row(
            kind,
            f"{counts['published']:,}",
            f"{counts['received']:,}",
            Text(f"{missing:,}", "red" if missing else "green"),
            Text(f"{counts['duplicated']:,}", "red" if counts["duplicated"] else "green"),
            "-" if gap is None else f"{gap:.0f} ms",
        )
    return table


def _sequence(mark: Mapping[str, Any] | None) -> str:
    return "-" if mark is None else str(mark["sequence"])


def _issuer(status: Mapping[str, Any]) -> str:
    """The epoch in the name of the CA that signed the leaf."""
    leaf = status.get("leaf")
    if not leaf:
        return "-"
    words = leaf["issuer"].replace(",", " ").split()
    return f"epoch {words[words.index('epoch') + 1]}" if "epoch" in words else leaf["issuer_sha256"][:12]
