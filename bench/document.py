"""docs/benchmarks.md: one section for each subject, each replaced as a whole when its subject is measured again.

A section stands between two comments, ``<!-- bench: <subject> -->`` and ``<!-- end: <subject> -->``; what stands
outside of them is left alone, so that people can write there.
"""

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench.sample import Sample

Cell = str | int | float | Sample

_DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

`make bench` measures everything here and writes it; `make bench SUBJECTS="applications"` a part of it. Each section
says when and on what machine. A peer is measured in the same run, on the same servers and under the same load.
"""


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Rows under a line that says what they are. A ``Sample`` fills three cells: n, median and p99."""

    caption: str
    columns: Sequence[str]
    """Headings; that of a ``Sample`` is what it is and its unit, such as ``gap, ms``."""
    rows: Sequence[Sequence[Cell]]

    def markdown(self) -> str:
        """The table as GitHub shows it."""
        is_sample = [isinstance(cell, Sample) for cell in self.rows[0]]
        headings: list[str] = []
        for heading, sample in zip(self.columns, is_sample, strict=True):
            what, _, unit = heading.rpartition(", ")
            figures = [f"{what}: n", f"median, {unit}", f"p99, {unit}"]
            headings += figures if sample else [heading]
        lines = [
            headings,
            ["---"] * len(headings),
            *([text for cell in row for text in _texts(cell)] for row in self.rows),
        ]
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _texts(cell: Cell) -> list[str]:
    if isinstance(cell, Sample):
        return [str(len(cell)), *(f"{figure:,.1f}" for figure in (cell.median, cell.p99))]
    return [f"{cell:,}" if isinstance(cell, int) else f"{cell:,.1f}" if isinstance(cell, float) else cell]


def machine() -> str:
    """What the figures were measured on."""
    model = next((line.partition(": ")[2] for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    server = subprocess.run(
        [Path(sys.executable).parent / "nats-server", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return (
        f"{os.cpu_count()} cores of {model.strip()}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {server.strip().replace(': ', ' ')}, nats-py {version('nats-py')}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write(subject: str, title: str, tables: Sequence[ReportTable], path: Path = _DOCUMENT) -> None:
    """Put the section in place of the one that was there, or at the end."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    body = "\n\n".join([f"## {title}", f"{today}; {machine()}.", *(table.markdown() for table in tables)])
    begin, end = f"<!-- bench: {subject} -->", f"<!-- end: {subject} -->"
    section = f"{begin}\n\n{body}\n\n{end}\n"
    text = path.read_text() if path.exists() else _HEAD
    before, found, rest = text.partition(begin)
    after = rest.partition(f"{end}\n")[2] if found else ""
    joint = "" if found else "\n"
    path.write_text(before + joint + section + after)
