"""A group whose program is missing is not run, and the last line says so; one whose program is there runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.paths import CHECKOUT

SAMPLE = """
import pytest

@pytest.mark.needs("promtool")
def test_of_the_group():
    raise AssertionError("ran")

@pytest.mark.needs("promtool")
def test_of_the_group_too():
    raise AssertionError("ran")

def test_of_none():
    pass
"""


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")
    return tmp_path


def finished(sample: Path, path: str) -> "subprocess.CompletedProcess[str]":
    """A run of pytest with this suite's conftest.py, and nothing but ``path`` to find programs on."""
    interpreter = sample / "alone" / "python"  # with no other program beside it
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    command = [str(interpreter), "-m", "pytest", "-q", "-p", "tests.conftest", str(sample)]
    packages = os.pathsep.join([str(CHECKOUT), *(entry for entry in sys.path if entry.endswith("site-packages"))])
    environment = {"PATH": path, "PYTHONPATH": packages}
    return subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
    )


def test_last_line_names_the_group_of_a_missing_program(sample: Path) -> None:
    run = finished(sample, str(sample))
    assert run.returncode == 0, run.stdout
    assert "1 passed, 2 deselected" in run.stdout
    assert run.stdout.splitlines()[-1] == (
        "NOT RUN here, for want of a program: promtool (2 tests; Debian package promtool or prometheus)"
    )


def test_group_of_a_present_program_runs(sample: Path) -> None:
    program = sample / "bin" / "promtool"
    program.parent.mkdir()
    program.touch(mode=0o755)
    run = finished(sample, str(program.parent))
    assert "2 failed, 1 passed" in run.stdout
    assert "NOT RUN" not in run.stdout
