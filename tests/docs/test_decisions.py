"""Decisions are numbered, each number once and none left out; each page says its own number and stands in the index."""

import re
from pathlib import Path

from tests.harness.paths import DOCS

DECISIONS = DOCS / "decisions"
INDEX = DECISIONS / "README.md"
PAGES = sorted(DECISIONS.glob("[0-9]*.md"))
_LONGEST_TITLE = 60


def title_of(page: Path) -> str:
    return page.read_text().partition("\n")[0]


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(page.name[:4]) for page in PAGES]
    assert numbers == list(range(1, len(PAGES) + 1))
    for page, number in zip(PAGES, numbers, strict=True):
        assert re.match(rf"# {number}\. \S", title_of(page)), page.name


def test_decision_titles_are_short() -> None:
    for page in PAGES:
        assert len(title_of(page)) <= _LONGEST_TITLE, title_of(page)


def test_index_links_each_decision_once_under_its_title() -> None:
    listed = re.findall(r"^- \[(.+)\]\((\d{4}-[\w-]+\.md)\)", INDEX.read_text(), re.MULTILINE)
    titles = {page.name: re.sub(r"^# | \(superseded by \d+\)$", "", title_of(page)) for page in PAGES}
    assert len(listed) == len(PAGES)
    assert {name: title for title, name in listed} == titles


def test_superseded_decision_names_its_replacement() -> None:
    superseded = {page: int(number) for page in PAGES for number in re.findall(r"superseded by (\d+)", title_of(page))}
    assert superseded, "expected decision 11 at least"
    for page, number in superseded.items():
        (successor,) = DECISIONS.glob(f"{number:04}-*.md")
        assert successor.name in page.read_text(), page.name
