"""The wheel holds the package tidemark alone, and works with what it says that it needs."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.harness.paths import CHECKOUT

DIRECTORY_EVENTS = "import pathlib, tidemark.nats.directory_events as d; watch = d.events_of(pathlib.Path('.'))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(CHECKOUT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (made,) = folder.iterdir()
    return made


def test_wheel_has_the_name_of_this_project(wheel: Path) -> None:
    assert wheel.name.startswith("tidemark_ca-")  # `tidemark` on the public index is another project's


def test_wheel_classifiers_begin_at_the_required_python_version(wheel: Path) -> None:
    described = description(wheel)
    (allowed,) = (line.partition(": ")[2] for line in described if line.startswith("Requires-Python: "))
    named = [line.rpartition(" :: ")[2] for line in described if line.startswith("Classifier: Programming Language")]
    versions = [Version(version) for version in named if version != "Only"]
    assert allowed == f">={min(versions)}"
    assert versions == [Version(f"3.{minor}") for minor in range(versions[0].minor, versions[-1].minor + 1)]


def test_wheel_contains_tidemark_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "tidemark").rglob("*.py")}
    rest = {name for name in names if not re.match(r"tidemark_ca-[^/]+\.dist-info/", name)}
    typed = {"tidemark/py.typed"}
    assert rest == modules | typed
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_wheel_requires_cryptography_and_each_extra_its_library(wheel: Path) -> None:
    assert {requirement.name for requirement in required(wheel, extra="")} == {"cryptography"}
    assert {requirement.name for requirement in required(wheel, extra="nats")} == {"cryptography", "nats-py"}
    assert {requirement.name for requirement in required(wheel, extra="http")} == {"cryptography", "aiohttp"}
    assert {requirement.name for requirement in required(wheel, extra="watch")} == {"cryptography", "watchfiles"}
    assert {requirement.name for requirement in required(wheel, extra="metrics")} == {
        "cryptography",
        "prometheus-client",
    }


@pytest.mark.parametrize(
    ("extra", "statement"),
    [
        ("", "import tidemark, tidemark.verify, tidemark.trust, tidemark.receipt"),
        ("nats", "import tidemark, tidemark.nats"),
        ("nats,http", "import tidemark.nats.endpoint"),
        ("nats,metrics", "import tidemark.nats.metrics"),
        ("nats,watch", f"{DIRECTORY_EVENTS}; assert watch.__name__ == '_watched'"),
        ("nats", f"{DIRECTORY_EVENTS}; assert watch.__name__ == 'repeatedly'"),
    ],
)
def test_wheel_imports_with_its_declared_dependencies_alone(
    wheel: Path, tmp_path: Path, extra: str, statement: str
) -> None:
    python = environment(tmp_path / "venv", wheel, extra)
    subprocess.run([python, "-I", "-W", "error", "-c", statement], check=True)


def test_nats_module_without_its_extra_names_the_missing_library(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", wheel, "")
    failed = subprocess.run([python, "-I", "-c", "import tidemark.nats"], capture_output=True, text=True, check=False)
    assert "No module named 'nats'" in failed.stderr


def environment(folder: Path, wheel: Path, extra: str) -> Path:
    """A virtual environment with the wheel and its dependencies, taken from this environment: no network is needed."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in closure(required(wheel, extra)):
        for file in metadata.files(name) or ():
            source, target = Path(str(file.locate())), site / file
            if ".." not in file.parts and source.exists() and "__pycache__" not in file.parts:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(source, target)
    return folder / "bin" / "python"


def description(wheel: Path) -> list[str]:
    """The lines of the wheel's core metadata (PEP 566)."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name).decode().splitlines()


def required(wheel: Path, extra: str) -> list[Requirement]:
    described = description(wheel)
    requirements = [Requirement(line.partition(": ")[2]) for line in described if line.startswith("Requires-Dist: ")]
    return [one for one in requirements if applies(one, {*extra.split(","), ""})]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def closure(requirements: list[Requirement]) -> set[str]:
    found: set[str] = set()
    while requirements:
        one = requirements.pop()
        name = canonicalize_name(one.name)
        if name not in found:
            found.add(name)
            needed = [Requirement(line) for line in metadata.requires(name) or ()]
            requirements += [more for more in needed if applies(more, one.extras | {""})]
    return found
