"""The manifests as an API server receives them, built by the kustomize in kubectl."""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.harness.paths import MANIFESTS

KUBECTL = Path(sys.executable).parent / "kubectl"
WITH_PODS = ("overlays/openbao", "overlays/embedded", "examples/nats", "examples/application")
BUILT = (*WITH_PODS, "examples/cert-manager")
"""Kustomizations that are applied directly; all others are parts of these."""

Object = dict[str, Any]


@cache
def _text(path: Path) -> str:
    command = [str(KUBECTL), "kustomize", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(path: str) -> list[Object]:
    """Every object of a kustomization; fresh ones at each call. ``path`` is below manifests/, or absolute."""
    return [item for item in yaml.safe_load_all(_text(MANIFESTS / path)) if item]


def everything() -> Iterator[tuple[str, Object]]:
    """Every object of everything that is applied, with where it comes from."""
    for path in BUILT:
        for item in build(path):
            yield path, item


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The object of this kind; a generated name may end in a hash."""
    (found,) = (
        item for item in objects if item["kind"] == kind and item["metadata"]["name"] in (name, *_hashed(item, name))
    )
    return found


def _hashed(item: Object, name: str) -> list[str]:
    found = item["metadata"]["name"]
    return [found] if found.startswith(f"{name}-") and len(found) == len(name) + 11 else []


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Pod templates, each with the name of its workload."""
    for item in objects:
        if "template" in item.get("spec", {}):
            yield f"{item['kind']}/{item['metadata']['name']}", item["spec"]["template"]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]
