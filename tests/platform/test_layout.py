"""The folders of tests: what they may import, and that none grows past what a reader takes in."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.harness.paths import CHECKOUT

TESTS = CHECKOUT / "tests"
HARNESS = TESTS / "harness"
LIMIT = 16
"""Modules of a folder of the harness."""


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def importing(folder: Path, forbidden: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
    """Files below a folder that import what is below ``forbidden`` and not below ``but``, each with the module."""
    return [
        f"{path.relative_to(CHECKOUT)}: {module}"
        for path in sorted(folder.rglob("*.py"))
        for module in imports(path)
        if module.startswith(forbidden) and not module.startswith(but)
    ]


def test_tests_import_the_harness_and_no_other_test() -> None:
    found = importing(TESTS, ("tests.",), but=("tests.harness",))
    assert not found, "\n".join(found)


def test_benchmarks_import_the_harness_and_no_test() -> None:
    found = importing(CHECKOUT / "bench", ("tests.",), but=("tests.harness",))
    assert not found, "\n".join(found)


def test_harness_imports_no_benchmark() -> None:
    found = importing(HARNESS, ("bench",))
    assert not found, "\n".join(found)


def test_harness_folders_stay_small() -> None:
    sizes = Counter(str(path.parent.relative_to(CHECKOUT)) for path in HARNESS.rglob("*.py"))
    assert {folder: size for folder, size in sizes.items() if size > LIMIT} == {}
