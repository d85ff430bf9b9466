"""Reads a Dockerfile: its stages, and the instructions of each stage in order. It knows the syntax that ours use."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``text`` is everything after its word, on one line."""

    word: str
    text: str


@dataclass(frozen=True)
class BuildStage:
    """A stage: what one ``FROM`` begins."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[str]:
        return [instruction.text for instruction in self.instructions if instruction.word == word]


@dataclass(frozen=True)
class Dockerfile:
    """``arguments`` are those before the first stage, with their defaults."""

    arguments: dict[str, str]
    stages: tuple[BuildStage, ...]

    @property
    def final(self) -> BuildStage:
        return self.stages[-1]

    def stage(self, name: str) -> BuildStage:
        return next(stage for stage in self.stages if stage.name == name)


def read(path: Path) -> Dockerfile:
    arguments: dict[str, str] = {}
    stages: list[BuildStage] = []
    for word, text in _instructions(path.read_text()):
        if word == "FROM":
            base, _, name = text.partition(" AS ")
            stages.append(BuildStage(base, name, ()))
        elif not stages:
            assert word == "ARG", f"{word} before FROM"
            name, _, default = text.partition("=")
            arguments[name] = default
        else:
            last = stages[-1]
            stages[-1] = BuildStage(last.base, last.name, (*last.instructions, Instruction(word, text)))
    return Dockerfile(arguments, tuple(stages))


def pairs(text: str) -> dict[str, str]:
    """``name=value …``, as LABEL and ENV have it."""
    return dict(word.split("=", 1) for word in shlex.split(text))


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]
