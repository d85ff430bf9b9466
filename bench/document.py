"""docs/benchmarks.md: one section for each subject, each replaced as a whole when its subject is measured again.

A section stands between two comments, ``<!-- bench: <subject> -->`` and ``<!-- end: <subject> -->``; what stands
outside of them is left alone, so that people can write there.
"""

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.harness.measurements import ReportTable

_DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

`make bench` measures everything here and writes it; `make bench SUBJECTS="applications"` a part of it. Each section
says when and on what machine. A peer is measured in the same run, on the same servers and under the same load.
"""


def machine() -> str:
    """What the figures were measured on."""
    model = next((line.partition(": ")[2] for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    server = subprocess.run(
        [Path(sys.executable).parent / "nats-server", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return (
        f"{os.cpu_count()} cores of {model.strip()}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {server.strip().replace(': ', ' ')}, nats-py {version('nats-py')}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write(subject: str, title: str, tables: Sequence[ReportTable], path: Path = _DOCUMENT) -> None:
    """Put the section in place of the one that was there, or at the end."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    body = "\n\n".join([f"## {title}", f"{today}; {machine()}.", *(table.markdown() for table in tables)])
    begin, end = f"<!-- bench: {subject} -->", f"<!-- end: {subject} -->"
    section = f"{begin}\n\n{body}\n\n{end}\n"
    text = path.read_text() if path.exists() else _HEAD
    before, found, rest = text.partition(begin)
    after = rest.partition(f"{end}\n")[2] if found else ""
    joint = "" if found else "\n"
    path.write_text(before + joint + section + after)
