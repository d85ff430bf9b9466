"""Programs that some tests need and pip does not install: which, where they are looked for, how to come by them.

Run as a program it prints what ``.ci/platform`` may bring, a line for each: the program, and the Debian packages that
may have it.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """A program that is found, or else named in the last line of the test run."""

    packages: tuple[str, ...]
    """Debian packages that may have it: its releases cut them differently."""
    brought: bool = True
    """Whether ``make test`` may bring it: one small package that works without others."""

    device: Path | None = None
    """What the program opens for reading and writing; a container may not have it."""

    @property
    def origin(self) -> str:
        """How to come by it: completes "it is missing: …"."""
        return f"Debian package {' or '.join(self.packages)}" + (f", and {self.device}" if self.device else "")


TOOLS = {
    "prometheus": Tool(("prometheus",)),
    "promtool": Tool(("promtool", "prometheus")),
    "openssl": Tool(("openssl",)),
    "go": Tool(("golang-go",), brought=False),
    "bindfs": Tool(("bindfs",), brought=False, device=Path("/dev/fuse")),
    "fusermount": Tool(("fuse",), brought=False),
}


@cache
def find(name: str) -> Path | None:
    """Where the program is: beside this interpreter, or on the PATH. None where it is not, or lacks its device."""
    device = TOOLS[name].device
    if device is not None and not os.access(device, os.R_OK | os.W_OK):
        return None
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    return Path(found) if found else None


def tool(name: str) -> Path:
    """The program; only for tests that carry ``@pytest.mark.needs(name)``."""
    found = find(name)
    assert found is not None, f"{name}: expected it, as the test is marked with needs({name!r}), found none"
    return found


if __name__ == "__main__":
    for name, one in TOOLS.items():
        if one.brought:
            print(name, *one.packages)
