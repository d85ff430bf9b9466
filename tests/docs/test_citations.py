"""What documents and sources cite exists: paths, documents, sections, decisions, invariants and their tests."""

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.documents.markdown import fenced, headings, prose, section
from tests.harness.paths import CHECKOUT, DOCS, MANIFESTS
from tidemark.verify import STEPS

ARCHITECTURE = DOCS / "architecture.md"
FOLDERS = sorted(path.name for path in CHECKOUT.iterdir() if path.is_dir() and not path.name.startswith("."))
"""The folders of the repository, and no others: a path in back-ticks begins with one of these."""
ROOTS = (CHECKOUT, MANIFESTS)
"""Where a path in a document may start."""
NO_PATHS = {"tidemark/bundle/v1"}
"""What reads as a path and is the format line of a statement."""
NO_DOCUMENTS = {"CODE_OF_CONDUCT.md"}
_INVARIANT = re.compile(r"^(\d+)\. (.*?)(?=^\d+\. |^#|\Z)", re.MULTILINE | re.DOTALL)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def files(*suffixes: str) -> Iterator[Path]:
    """Every file of the repository with one of these suffixes."""
    yield from (path for path in CHECKOUT.iterdir() if path.is_file() and path.suffix in suffixes)
    for folder in FOLDERS:
        found = (path for path in (CHECKOUT / folder).rglob("*") if path.suffix in suffixes and path.is_file())
        yield from (path for path in found if "__pycache__" not in path.parts)


DOCUMENTS = sorted(files(".md"))
SOURCES = sorted(files(".py", ".md", ".yaml", ".toml"))


def name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def spans(path: Path) -> list[str]:
    """What stands in back-ticks, outside of fenced blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(path))]


def exists(path: str) -> bool:
    """Whether the repository has this path; ``*`` stands for any part of a name."""
    return any(any(root.glob(path.rstrip("/"))) for root in ROOTS)


def test_paths_in_back_ticks_exist() -> None:
    starts = "|".join(map(re.escape, [*FOLDERS, *(path.name for path in MANIFESTS.iterdir())]))
    missing = []
    for document in DOCUMENTS:
        for span in spans(document):
            path = re.sub(r"(::\w+|#[\w-]+)$", "", span)
            if re.fullmatch(rf"(?:{starts})/[\w./*-]*", path) and path not in NO_PATHS and not exists(path):
                missing.append(f"{name(document)}: {span}")
    assert not missing, "\n".join(missing)


def test_modules_in_back_ticks_exist() -> None:
    modules = {path.name for path in files(".py")}
    missing = [
        f"{name(document)}: {span}"
        for document in DOCUMENTS
        for span in spans(document)
        if re.fullmatch(r"\w+\.py", span) and span not in modules
    ]
    assert not missing, "\n".join(missing)


def test_links_lead_to_pages_and_headings_that_exist() -> None:
    broken = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
            if re.match(r"[a-z]+:", target):
                continue
            page, _, anchor = target.partition("#")
            path = (document.parent / page).resolve() if page else document
            if not path.exists() or (anchor and anchor not in headings(path).values()):
                broken.append(f"{name(document)}: {target}")
    assert not broken, "\n".join(broken)


def test_cited_documents_exist() -> None:
    missing = []
    for source in SOURCES:
        places = (*ROOTS, source.parent, DOCS, DOCS / "decisions")
        for cited in set(re.findall(r"(?<![\w/*.])(?!https?:)((?:[\w-]+/)*[\w-]+\.md)\b", source.read_text())):
            if cited not in NO_DOCUMENTS and not any((place / cited).exists() for place in places):
                missing.append(f"{name(source)}: {cited}")
    assert not missing, "\n".join(missing)


def test_cited_decisions_exist() -> None:
    numbers = {int(page.name[:4]) for page in (DOCS / "decisions").glob("[0-9]*.md")}
    missing = [
        f"{name(source)}: decision {number}"
        for source in SOURCES
        for number in re.findall(r"\b[Dd]ecision (\d+)", source.read_text())
        if int(number) not in numbers
    ]
    assert not missing, "\n".join(missing)


def test_cited_invariants_exist_and_sources_name_their_page() -> None:
    wrong = []
    numbers = invariants().keys()
    for source in SOURCES:
        for page, number in re.findall(r"(architecture\.md,\s+)?\b[Ii]nvariant (\d+)", source.read_text()):
            if int(number) not in numbers or (source.suffix == ".py" and not page):
                wrong.append(f"{name(source)}: invariant {number}; expected: (docs/architecture.md, invariant N)")
    assert not wrong, "\n".join(wrong)


def test_cited_sections_of_the_architecture_exist() -> None:
    wrong = []
    for source in SOURCES:
        text = source.read_text()
        cited = re.findall(r'architecture\.md, "([^"]+)"', text)
        wrong += [f"{name(source)}: {heading}" for heading in cited if heading not in headings(ARCHITECTURE)]
        if re.search(r"\(desig[n]\b|\bdesig[n], \"", text):
            wrong.append(f"{name(source)}: the design is docs/architecture.md")
    assert not wrong, "\n".join(wrong)


def invariants() -> dict[int, str]:
    """The numbered list of the section "Invariants"."""
    _, _, rest = ARCHITECTURE.read_text().partition("\n## Invariants\n")
    return {int(number): text for number, text in _INVARIANT.findall(rest.partition("\n## ")[0])}


def test_every_wing_and_every_module_of_the_contract_is_described() -> None:
    page = ARCHITECTURE.read_text()
    for program in ("authority", "agent"):
        wings = (path.name for path in (CHECKOUT / program).iterdir() if (path / "__init__.py").exists())
        missing = [wing for wing in wings if f"**`{program}/{wing}/`**" not in page]
        assert not missing, program
    modules = (path.name for path in (CHECKOUT / "tidemark").glob("*.py") if path.name != "__init__.py")
    assert [module for module in modules if f"| `tidemark/{module}`" not in page] == []


@pytest.mark.parametrize("program", ["authority", "agent"])
def test_the_picture_shows_the_layers_that_are_enforced(program: str) -> None:
    enforced = configparser.ConfigParser()
    enforced.read(CHECKOUT / ".importlinter")
    layers = enforced[f"importlinter:contract:{program}"]["layers"].split("\n")
    (picture,) = fenced(section("architecture.md", f"The wings of the {program}"), "mermaid")
    shown = [label.partition(":")[0].split(" · ") for label in re.findall(r'\["([^"]+)"\]', picture)]
    assert shown == [line.split(" | ") for line in layers if line]


def test_each_invariant_names_tests_that_exist() -> None:
    assert list(invariants()) == list(range(1, 13))
    wrong = []
    for number, text in invariants().items():
        named = _TEST.findall(text)
        wrong += [] if named else [f"invariant {number}: expected a test"]
        wrong += [
            f"invariant {number}: {file}::{test}" for file, test in named if test not in functions_of(CHECKOUT / file)
        ]
    assert not wrong, "\n".join(wrong)


def functions_of(path: Path) -> set[str]:
    """The functions of a module of tests; none where there is no such module."""
    nodes = ast.walk(ast.parse(path.read_text())) if path.exists() else ()
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_verification_steps_have_the_numbers_of_the_verifier() -> None:
    _, _, rest = ARCHITECTURE.read_text().partition("\n## Verification steps\n")
    steps = {int(number): text for number, text in _INVARIANT.findall(rest.partition("\n## ")[0])}
    assert list(steps) == sorted(set(STEPS.values()))
    for reason, number in STEPS.items():
        assert f"`{reason}`" in steps[number], f"step {number}: {reason}"
