"""The documents as text: fenced blocks, sections and prose."""

import re
from pathlib import Path

from tests.harness.paths import CHECKOUT

DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")])
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def fenced(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of one language, in order."""
    return [content for _, found, content in _FENCE.findall(text) if found == language]


def blocks(path: Path, language: str) -> list[str]:
    return fenced(path.read_text(), language)


def prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text())


def headings(path: Path) -> dict[str, str]:
    """The headings of a page, each with the anchor that GitHub makes of it."""
    found = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {heading: re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in found}


def inline(text: str, program: str) -> list[str]:
    """Commands of this program in back-ticks, in order; one may go over the end of a line."""
    return [re.sub(r"\s+", " ", found) for found in re.findall(rf"`({program} [^`]+)`", _FENCE.sub("", text))]


def section(page: str, heading: str) -> str:
    """What stands below ``## heading`` of a page of docs/, up to the next heading of that kind."""
    _, found, rest = (CHECKOUT / "docs" / page).read_text().partition(f"\n## {heading}\n")
    assert found, f"{page}: expected a section {heading!r}"
    return rest.partition("\n## ")[0]


def beginning(page: str) -> str:
    """What stands above the first ``##`` of a page of docs/."""
    return (CHECKOUT / "docs" / page).read_text().partition("\n## ")[0]
