"""``python -m bench.soak REPORT``: writes what soak runs reported (one JSON object a line) to docs/benchmarks.md."""

import json
import sys
from pathlib import Path
from typing import Any

from bench import document
from bench.document import Cell, Table

_MESSAGES = ["rotations", "servers killed", "kind", "published", "lost", "twice", "gap p50, ms", "p99, ms", "max, ms"]
_USE = ["rotations", "servers killed", "process", "RSS before and after, MiB", "tasks", "descriptors"]


def tables(runs: list[dict[str, Any]]) -> list[Table]:
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
        Table(
            "Messages; a gap is the longest between two arrivals from one rotation to the next.", _MESSAGES, messages
        ),
        Table("What the applications held after five rotations, and at the end.", _USE, use),
    ]


def main() -> None:
    """The command line."""
    lines = Path(sys.argv[1]).read_text().splitlines()
    found = tables([json.loads(line) for line in lines])
    document.write("soak", "Applications: rotation after rotation at 2,000 messages per second", found)
    for table in found:
        print(f"{table.markdown()}\n")


if __name__ == "__main__":
    main()
