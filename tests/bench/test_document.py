"""The benchmarks' document: each section is replaced as a whole, what people wrote around them stays."""

from pathlib import Path

import pytest

from bench.document import write
from tests.harness.measurements import ReportTable, Sample


def table(*values: float) -> ReportTable:
    return ReportTable("What it is.", ["way", "lost", "gap, ms"], [["ours", 1234, Sample(values)]])


def test_percentiles_are_measured_values() -> None:
    sample = Sample(tuple(float(value) for value in range(1, 201)))
    assert (sample.median, sample.p99, sample.highest, len(sample)) == (100, 198, 200, 200)
    few = Sample((3.0, 1.0, 2.0))
    assert (few.median, few.p99) == (2, 3)


def test_table_renders_as_markdown_with_figures_of_a_sample() -> None:
    assert table(1, 2, 3).markdown().splitlines() == [
        "What it is.",
        "",
        "| way | lost | gap: n | median, ms | p99, ms |",
        "| --- | --- | --- | --- | --- |",
        "| ours | 1,234 | 3 | 2.0 | 3.0 |",
    ]


def test_writing_a_section_keeps_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    write("one", "The one", [table(1)], path)
    write("two", "The two", [table(2)], path)
    path.write_text(path.read_text() + "\nWhat people wrote.\n")
    before = path.read_text()
    write("one", "The one", [table(7)], path)
    after = path.read_text()
    assert after == before.replace("| 1 | 1.0 | 1.0 |", "| 1 | 7.0 | 7.0 |")
    assert after.index("## The one") < after.index("## The two") < after.index("What people wrote.")
    assert "nats-server" in after


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0)])
def test_writing_a_section_twice_changes_nothing(tmp_path: Path, values: tuple[float, ...]) -> None:
    path = tmp_path / "benchmarks.md"
    write("one", "The one", [table(*values)], path)
    before = path.read_text()
    write("one", "The one", [table(*values)], path)
    assert path.read_text() == before
