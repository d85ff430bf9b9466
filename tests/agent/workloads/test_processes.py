"""The workload's process: found by its name, and described as it is now."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agent.workloads.processes import WorkloadProcess, effective_user, find_processes, read_process
from tests.harness.processes import started
from tests.harness.waiting import eventually

Start = Callable[..., subprocess.Popen[bytes]]


def program(path: Path) -> Path:
    """``sleep`` under another name."""
    path.symlink_to(shutil.which("sleep") or "")
    return path


async def running(process: subprocess.Popen[bytes], name: str) -> WorkloadProcess:
    """The process, once it has its own name: between fork and exec it has this one's."""

    def look() -> WorkloadProcess | None:
        found = read_process(process.pid)
        return found if found and found.is_named(name) else None

    found: WorkloadProcess = await eventually(look, f"a process named {name}")
    return found


@pytest.mark.parametrize("name", ["tide-server", "tide) S 1 (x", "tide-server-of-a-long-name", "tide-serverfif15"])
async def test_process_is_found_by_its_name_with_its_facts(tmp_path: Path, start: Start, name: str) -> None:
    process = start(program(tmp_path / name), "60")
    expected = WorkloadProcess(process.pid, name, os.getpid(), started(process.pid))
    assert await running(process, name) == expected
    assert find_processes(name) == [expected]
    assert effective_user(process.pid) == os.geteuid()
    assert find_processes(f"{name}-two") == []


async def test_long_name_is_found_as_the_kernel_cuts_it_and_by_no_other_part(tmp_path: Path, start: Start) -> None:
    process = start(program(tmp_path / "tide-server-of-a-long-name"), "60")
    await running(process, "tide-server-of-a-long-name")
    assert [found.pid for found in find_processes("tide-server-of-")] == [process.pid]
    assert find_processes("tide-server-of") == []
    assert find_processes("tide-server-of-a-long") == []


async def test_ended_process_is_not_found_before_its_parent_collects_it(tmp_path: Path, start: Start) -> None:
    process = start(program(tmp_path / "tide-ended"), "60")
    await running(process, "tide-ended")
    process.kill()
    # The process has ended, and is still in the list of processes.
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert read_process(process.pid) is None
    assert find_processes("tide-ended") == []


def test_own_process_is_not_found() -> None:
    own = read_process(os.getpid())
    assert own is not None
    assert os.getpid() not in [process.pid for process in find_processes(own.name)]


def test_pid_without_a_process_is_none() -> None:
    assert effective_user(2**22 + 1) is None
    assert read_process(2**22 + 1) is None  # above the largest pid_max (proc_sys_kernel_pid_max(5))


def test_uid_is_the_directory_owner_where_status_has_no_uid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / str(os.getpid())
    copy.mkdir()
    for name in ("stat", "cmdline", "status"):
        (copy / name).write_bytes((Path("/proc/self") / name).read_bytes())
    lines = (copy / "status").read_text().splitlines(keepends=True)
    (copy / "status").write_text("".join(line for line in lines if not line.startswith("Uid:")))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert effective_user(os.getpid()) == os.geteuid()
