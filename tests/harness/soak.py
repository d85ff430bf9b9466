"""The size of a soak test, from the environment, and its report.

The suite runs a short version of each. ``make soak`` sets the sizes, and ``SOAK_REPORT``: a file to which every table
is appended as a line of JSON, from which ``python -m bench.soak`` writes the section of docs/benchmarks.md.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from tests.harness.measurements import ReportTable


def size(variable: str, in_suite: int) -> int:
    """The number of repetitions: the value of the variable, or ``in_suite``."""
    return int(os.environ.get(variable, in_suite))


def report(section: str, title: str, table: ReportTable) -> None:
    """Print a table and append it to the file ``SOAK_REPORT``; its cells are numbers and words."""
    print(f"\n{table.markdown()}")
    if where := os.environ.get("SOAK_REPORT", ""):
        with Path(where).open("a") as file:
            print(json.dumps({"section": section, "title": title, **asdict(table)}), file=file)
