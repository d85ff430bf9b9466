"""Programs that some tests need and pip does not install: which, where they are looked for, how to come by them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """A program; ``origin`` completes "it is missing: …"; ``serves`` says whether one that was found is of use."""

    origin: str
    serves: Callable[[Path], bool] = lambda _: True


def _builds_with_kustomize_5(kubectl: Path) -> bool:
    """kubectl has kustomize v5 since 1.27; what is asked here is 1.30."""
    command = [str(kubectl), "version", "--client", "--output=json"]
    try:
        answer = subprocess.run(command, capture_output=True, check=True, timeout=60)
        version = json.loads(answer.stdout)["clientVersion"]
        return (int(version["major"]), int(version["minor"].rstrip("+"))) >= (1, 30)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return False


TOOLS = {
    "prometheus": Tool("Debian package prometheus"),
    "promtool": Tool("Debian package prometheus"),
    "kubectl": Tool("kubectl 1.30 or later on the PATH", _builds_with_kustomize_5),
}


@cache
def find(name: str) -> Path | None:
    """Where the program is: beside this interpreter, or on the PATH. None where it is not, or is too old."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    return Path(found) if found and TOOLS[name].serves(Path(found)) else None


def tool(name: str) -> Path:
    """The program; only for tests that carry ``@pytest.mark.needs(name)``."""
    found = find(name)
    assert found is not None, f"{name}: expected it, as the test is marked with needs({name!r}), found none"
    return found
