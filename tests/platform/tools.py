"""Programs that some tests need and pip does not install: which, where they are looked for, how to come by them."""

import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """A program; ``origin`` completes "it is missing: …"."""

    origin: str


TOOLS = {
    "prometheus": Tool("Debian package prometheus"),
    "promtool": Tool("Debian package prometheus"),
}


@cache
def find(name: str) -> Path | None:
    """Where the program is: beside this interpreter, or on the PATH. None where it is not."""
    assert name in TOOLS, name
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    return Path(found) if found else None


def tool(name: str) -> Path:
    """The program; only for tests that carry ``@pytest.mark.needs(name)``."""
    found = find(name)
    assert found is not None, f"{name}: expected it, as the test is marked with needs({name!r}), found none"
    return found
