"""``python -m bench.soak REPORT``: writes what soak runs reported (one JSON object a line) to docs/benchmarks.md.

A line is a table with its section, or a run of the applications, whose section is made here.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench import document
from tests.harness.measurements import Cell, ReportTable

_MESSAGES = ["rotations", "servers killed", "kind", "published", "lost", "twice", "gap p50, ms", "p99, ms", "max, ms"]
_USE = ["rotations", "servers killed", "process", "RSS before and after, MiB", "tasks", "descriptors"]


def tables(runs: list[dict[str, Any]]) -> list[ReportTable]:
    """What came of each run, and what its processes held after five rotations and at the end."""
    messages: list[list[Cell]] = []
    use: list[list[Cell]] = []
    for run in runs:
        which = [run["rotations"], run["servers_killed"]]
        for kind in ("core", "jetstream"):
            found, gap = run[kind], run[kind]["gap_ms"]
            figures = [found["published"], found["lost"], found["duplicated"], gap["p50"], gap["p99"], gap["max"]]
            messages.append([*which, kind, *figures])
        for name, held in run["processes"].items():
            spans = [f"{held[what][0]}, {held[what][-1]}" for what in ("rss_mib", "tasks", "descriptors")]
            use.append([*which, name, *spans])
    return [
        ReportTable(
            "Messages; a gap is the longest between two arrivals from one rotation to the next.", _MESSAGES, messages
        ),
        ReportTable("What the applications held after five rotations, and at the end.", _USE, use),
    ]


def main() -> None:
    """The command line."""
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    runs = [line for line in lines if "section" not in line]
    if runs:
        document.write("soak", "Applications: rotation after rotation at 2,000 messages per second", tables(runs))
    sections: dict[tuple[str, str], list[ReportTable]] = {}
    for line in lines:
        if "section" in line:
            table = ReportTable(line["caption"], line["columns"], line["rows"])
            sections.setdefault((line["section"], line["title"]), []).append(table)
    for (section, title), found in sections.items():
        document.write(section, title, [joined(found)])
    for table in tables(runs) if runs else []:
        print(f"{table.markdown()}\n")


def joined(found: list[ReportTable]) -> ReportTable:
    """One table of several with the same caption, as the runs of one test report them."""
    return ReportTable(found[0].caption, found[0].columns, [row for table in found for row in table.rows])


if __name__ == "__main__":
    main()
