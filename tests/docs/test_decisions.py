"""Decisions are numbered: each number once, none left out, and the page says its own."""

import re
from pathlib import Path

PAGES = sorted((Path(__file__).parents[2] / "docs" / "decisions").glob("*.md"))


def test_each_page_has_a_number_of_its_own() -> None:
    numbers = [int(page.name[:4]) for page in PAGES]
    assert numbers == list(range(1, len(PAGES) + 1))
    for page, number in zip(PAGES, numbers, strict=True):
        assert re.match(rf"# {number}\. \S", page.read_text()), page.name
