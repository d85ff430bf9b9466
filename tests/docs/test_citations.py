"""What documents and sources cite exists: paths, documents, sections, decisions, invariants and their tests."""

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.documents.markdown import fenced, headings, prose, section
from tests.harness.paths import CHECKOUT
from tidemark.verify import STEPS

ARCHITECTURE = CHECKOUT / "docs" / "architecture.md"
FOLDERS = sorted(path.name for path in CHECKOUT.iterdir() if path.is_dir() and not path.name.startswith("."))
"""The folders of the repository, and no others: a path in back-ticks begins with one of these."""
ROOTS = (CHECKOUT, CHECKOUT / "manifests")
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


@pytest.fixture(params=DOCUMENTS, ids=name)
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def spans(path: Path) -> list[str]:
    """What stands in back-ticks, outside of fenced blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(path))]


def exists(path: str) -> bool:
    """Whether the repository has this path; ``*`` stands for any part of a name."""
    return any(any(root.glob(path.rstrip("/"))) for root in ROOTS)


def test_paths_in_back_ticks_exist(document: Path) -> None:
    starts = "|".join(map(re.escape, [*FOLDERS, *(path.name for path in (CHECKOUT / "manifests").iterdir())]))
    missing = []
    for span in spans(document):
        path = re.sub(r"(::\w+|#[\w-]+)$", "", span)
        if re.fullmatch(rf"(?:{starts})/[\w./*-]*", path) and path not in NO_PATHS and not exists(path):
            missing.append(span)
    assert not missing


def test_modules_in_back_ticks_exist(document: Path) -> None:
    modules = {path.name for path in files(".py")}
    named = {span for span in spans(document) if re.fullmatch(r"\w+\.py", span)}
    assert named <= modules, named - modules


def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        page, _, anchor = target.partition("#")
        path = (document.parent / page).resolve() if page else document
        assert path.exists(), target
        assert not anchor or anchor in headings(path).values(), target


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_documents_that_are_cited_exist(source: Path) -> None:
    places = (*ROOTS, source.parent, CHECKOUT / "docs", CHECKOUT / "docs" / "decisions")
    for cited in set(re.findall(r"(?<![\w/*.])(?!https?:)((?:[\w-]+/)*[\w-]+\.md)\b", source.read_text())):
        assert cited in NO_DOCUMENTS or any((place / cited).exists() for place in places), cited


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_decisions_invariants_and_sections_that_are_cited_exist(source: Path) -> None:
    text = source.read_text()
    numbers = {int(page.name[:4]) for page in (CHECKOUT / "docs" / "decisions").glob("[0-9]*.md")}
    assert {int(number) for number in re.findall(r"\b[Dd]ecision (\d+)", text)} <= numbers
    cited = re.findall(r"(architecture\.md,\s+)?\b[Ii]nvariant (\d+)", text)
    assert {int(number) for _, number in cited} <= set(invariants())
    assert source.suffix != ".py" or all(page for page, _ in cited), "expected: (docs/architecture.md, invariant N)"
    for heading in re.findall(r'architecture\.md, "([^"]+)"', text):
        assert heading in headings(ARCHITECTURE), heading
    assert not re.search(r"\(desig[n]\b|\bdesig[n], \"", text), "the design is docs/architecture.md"


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
    for number, text in invariants().items():
        named = _TEST.findall(text)
        assert named, f"invariant {number}: expected a test"
        for file, function in named:
            tree = ast.parse((CHECKOUT / file).read_text())
            tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert function in tests, f"invariant {number}: {file}::{function}"


def test_verification_steps_have_the_numbers_of_the_verifier() -> None:
    _, _, rest = ARCHITECTURE.read_text().partition("\n## Verification steps\n")
    steps = {int(number): text for number, text in _INVARIANT.findall(rest.partition("\n## ")[0])}
    assert list(steps) == sorted(set(STEPS.values()))
    for reason, number in STEPS.items():
        assert f"`{reason}`" in steps[number], f"step {number}: {reason}"
