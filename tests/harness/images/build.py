"""Images without an engine: the steps of a Dockerfile's ``build`` stage, run under a folder in place of ``/``.

The steps run unchanged, with this interpreter for ``python3`` and the folder as prefix of every absolute path.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.images.dockerfile import Dockerfile, read
from tests.harness.paths import CHECKOUT

IMAGES = ("agent", "authority")
HOME = "opt/tidemark"


@dataclass(frozen=True)
class Image:
    """The files that the final stage copies from the build; ``root`` stands for ``/``."""

    program: str
    root: Path
    dockerfile: Dockerfile

    @property
    def library(self) -> Path:
        return self.root / HOME / "lib"

    @property
    def command(self) -> list[str]:
        """The image's entry command, with the flags of its first line."""
        script = self.root / HOME / "bin" / f"tidemark-{self.program}"
        line = script.read_text().splitlines()[0]
        found = re.fullmatch(r"#!/usr/bin/env -S python3 (-[A-Za-z]+)", line)
        assert found, line
        return [sys.executable, found[1], str(script)]

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.command, *arguments],
            env=dict(environment or {}),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def packages(self) -> set[str]:
        """Names of the distributions that are installed."""
        names = (path.name.removesuffix(".dist-info").rpartition("-")[0] for path in self.library.glob("*.dist-info"))
        return {name.lower().replace("_", "-").replace(".", "-") for name in names}

    def size(self) -> int:
        """Bytes of everything installed."""
        return sum(path.lstat().st_size for path in (self.root / HOME).rglob("*"))


def cook(program: str, root: Path) -> Image:
    """Run the steps of ``Dockerfile.<program>``."""
    dockerfile = read(CHECKOUT / f"Dockerfile.{program}")
    here = root
    for instruction in dockerfile.stage("build").instructions:
        if instruction.word == "WORKDIR":
            here = _under(root, instruction.text)
            here.mkdir(parents=True, exist_ok=True)
        elif instruction.word == "COPY":
            source, target = instruction.text.split()
            _copy(CHECKOUT / source, here / target if target == "./" else _under(root, target))
        elif instruction.word == "RUN":
            _run(instruction.text, root, here)
        else:
            assert instruction.word == "ARG", instruction
    return Image(program, root, dockerfile)


def _under(root: Path, path: str) -> Path:
    return root / path.removeprefix("/")


def _copy(source: Path, target: Path) -> None:
    """Copy with the modes of a checkout that only its owner may read: a COPY keeps modes."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target = target / source.name if target.is_dir() else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)


def _run(command: str, root: Path, here: Path) -> None:
    words = command.split()
    programs = {"python3": sys.executable, "chmod": "chmod"}
    words = [programs[words[0]], *(str(_under(root, word)) if word.startswith("/") else word for word in words[1:])]
    done = subprocess.run(words, cwd=here, env=os.environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
