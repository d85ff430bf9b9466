"""Processes that tests start, and when they started."""

import os
import subprocess
from pathlib import Path

from tests.harness.waiting import wait_until


def launch(*command: object) -> "subprocess.Popen[bytes]":
    """Start a process, and return once it has the name of its program (it has the name of ours before)."""
    process = subprocess.Popen([str(part) for part in command])
    name = Path(str(command[0])).name[:15]
    wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text().strip() == name, f"a process named {name}")
    return process


def started(pid: int) -> float:
    """When a process started, in seconds of the boot clock."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
