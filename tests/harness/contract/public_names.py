"""The public names of the wheel: what an application may import, call and read.

``python -m tests.harness.contract.public_names`` writes the list anew. A line that goes or changes breaks applications:
the changelog says so, and the old name stays for one release.
"""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from types import ModuleType

from tests.harness.paths import CHECKOUT, VECTORS

FILE = VECTORS / "public-names.txt"
PACKAGE = CHECKOUT / "tidemark"

PUBLIC_IN_NATS = ("tidemark.nats", "tidemark.nats.endpoint")
"""The other modules of ``tidemark.nats`` are its own."""


def public_modules() -> list[str]:
    """Every module of the contract and what applications import of ``tidemark.nats``."""
    contract = sorted(f"tidemark.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem != "__init__")
    return [*contract, *PUBLIC_IN_NATS]


def public_names() -> list[str]:
    """One line for each name, sorted: functions with their parameters, data classes with their fields."""
    lines: set[str] = set()
    for name in public_modules():
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", None) or _defined(module):
            lines.update(_lines(f"{name}.{public}", getattr(module, public)))
    return sorted(lines)


def _defined(module: ModuleType) -> list[str]:
    """The names that a module defines itself, without imports and type variables."""
    names: list[str] = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign) and "TypeVar" not in ast.dump(node.value):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def _lines(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, type) or not value.__module__.startswith("tidemark"):
        yield name + _parameters(value)
        return
    if is_dataclass(value):
        made_of = [field.name for field in fields(value) if field.init]
        yield f"{name}({', '.join(made_of)})"
    else:
        yield name
        made_of = []
    members: dict[str, object] = {}
    for base in reversed([base for base in value.__mro__ if base.__module__.startswith("tidemark")]):
        members |= {**vars(base), **dict.fromkeys(_set_by_init(base))}
    members |= dict(value.__members__) if issubclass(value, Enum) else {}
    for member, held in members.items():
        if not member.startswith("_") and member not in made_of:
            function = held.__func__ if isinstance(held, classmethod | staticmethod) else held
            yield f"{name}.{member}{_parameters(function)}"


def _set_by_init(value: type) -> list[str]:
    """The attributes that ``__init__`` sets."""
    if "__init__" not in vars(value) or is_dataclass(value):
        return []
    tree = ast.parse(textwrap.dedent(inspect.getsource(value.__init__)))  # type: ignore[misc]
    stored = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return [node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == "self"]


def _parameters(function: object) -> str:
    if not inspect.isfunction(function):
        return ""
    marks: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found = inspect.signature(function).parameters.values()
    words = [
        f"{marks.get(one.kind, '')}{one.name}" + ("" if one.default is inspect.Parameter.empty else "=")
        for one in found
    ]
    return f"({', '.join(words)})"


if __name__ == "__main__":
    found = public_names()
    FILE.write_text("".join(f"{line}\n" for line in found))
    print(FILE, len(found))
