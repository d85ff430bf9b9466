"""Signals reach the process that is meant, and no other."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.workloads.interface import Expectation, ReloadAnswer, WorkloadAbsent
from agent.workloads.signal_reloader import FIRST_SECOND, SignalReloader
from agent.workloads.target_urls import parse_target
from agent.workloads.targets import SignalTarget
from tests.harness.privileges import NOBODY, without_privileges
from tests.harness.processes import started
from tests.harness.waiting import eventually

PYTHON = Path(sys.executable).resolve()
EXPECTED = Expectation(7, "c" * 64, (), None, Path("/out"), 0.0)
CATCHES_HUP = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, lambda *_: open(sys.argv[1], "w").write("told"))
open(sys.argv[1] + ".ready", "w").close()
while True:
    time.sleep(10)
"""


@pytest.fixture
async def workload(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """A process with a name of its own that writes ``told`` when it gets SIGHUP."""
    name = tmp_path / "tide-workload"
    name.symlink_to(PYTHON)
    process = start(name, "-c", CATCHES_HUP, tmp_path / "told")
    await eventually((tmp_path / "told.ready").exists, "the workload to start")
    return process


def reloader(url: str) -> SignalReloader:
    target = parse_target(url)
    assert isinstance(target, SignalTarget)
    return SignalReloader(target)


async def reload(url: str) -> ReloadAnswer:
    return await reloader(url).reload(EXPECTED, 5.0)


@pytest.mark.parametrize("by", ["process", "pidfile"])
async def test_workload_is_signalled_after_its_first_second(
    workload: subprocess.Popen[bytes], tmp_path: Path, by: str
) -> None:
    (tmp_path / "pid").write_text(f"{workload.pid}\n")
    url = "signal:?process=tide-workload" + (f"&pidfile={tmp_path}/pid" if by == "pidfile" else "")
    assert await reload(url) == ReloadAnswer()
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= started(workload.pid) + FIRST_SECOND
    await eventually((tmp_path / "told").exists, "the workload to be told")


async def test_workload_that_started_after_an_instant_is_known(workload: subprocess.Popen[bytes]) -> None:
    signalled = reloader("signal:?process=tide-workload")
    assert await signalled.started_after(started(workload.pid) - 0.01)
    assert not await signalled.started_after(started(workload.pid))


async def test_stale_pidfile_signals_no_process(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    bystander = start("sleep", "60")
    (tmp_path / "pid").write_text(str(bystander.pid))
    with pytest.raises(
        WorkloadAbsent, match=f"expected the pid of a process named nats-server, found {bystander.pid}, which is sleep"
    ):
        await reload(f"signal:?pidfile={tmp_path}/pid")
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(bystander.wait, 0.2)


async def test_pidfile_with_the_number_of_a_thread_signals_no_process(tmp_path: Path) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        name = await eventually(lambda: Path(f"/proc/self/task/{thread.native_id}/comm").read_text().strip(), "a name")
        (tmp_path / "pid").write_text(str(thread.native_id))
        by_file = reloader(f"signal:?pidfile={tmp_path}/pid&process={name}")
        for ask in (by_file.reload(EXPECTED, 5.0), by_file.started_after(0.0)):
            with pytest.raises(WorkloadAbsent, match="expected a running process, found none with pid") as caught:
                await ask
            assert caught.value.reason == "stale_pidfile"
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("content", ["", "nobody", "-1", "0", "99999999999", "1 2", "1" * 300, "1" * 5000])
async def test_pidfile_without_a_pid_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    with pytest.raises(WorkloadAbsent, match=f"{tmp_path}/pid: expected a pid in digits"):
        await reload(f"signal:?pidfile={tmp_path}/pid")


async def test_pidfile_of_an_ended_process_is_named(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    gone = start("true")
    await eventually(lambda: Path(f"/proc/{gone.pid}/stat").read_text().split()[2] == "Z", "a zombie")
    (tmp_path / "pid").write_text(str(gone.pid))
    for _ in ("not reaped", "reaped"):
        with pytest.raises(WorkloadAbsent, match=f"expected a running process, found none with pid {gone.pid}"):
            await reload(f"signal:?pidfile={tmp_path}/pid")
        gone.wait()


async def test_missing_workload_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadAbsent, match="expected a process named tide-nobody, found none") as caught:
        await reload("signal:?process=tide-nobody")
    assert caught.value.reason == "no_process"
    with pytest.raises(WorkloadAbsent, match=f"{tmp_path}/pid: expected a pid file, found none"):
        await reload(f"signal:?pidfile={tmp_path}/pid")


async def test_two_processes_of_one_name_are_ambiguous(
    workload: subprocess.Popen[bytes], tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    start(tmp_path / "tide-workload", "-c", "import time; time.sleep(60)")
    with pytest.raises(WorkloadAbsent, match="expected one process named tide-workload, found 2"):
        await reload("signal:?process=tide-workload")
    assert not (tmp_path / "told").exists()


async def test_of_two_processes_of_one_name_the_agents_user_decides(
    open_folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    name = open_folder / "tide-shared"
    name.symlink_to(shutil.which("sleep") or "")
    if os.geteuid() == 0:  # another user's: nobody else can start one
        start(name, "60")
    with without_privileges():
        own = start(name, "60")
        assert await reload("signal:?process=tide-shared") == ReloadAnswer()
    assert await asyncio.to_thread(own.wait, 20) == -signal.SIGHUP


async def test_long_name_is_compared_whole(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    name = tmp_path / "tide-workload-of-long-name"
    name.symlink_to(shutil.which("sleep") or "")
    process = start(name, "60")
    pid = await eventually(
        lambda: Path(f"/proc/{process.pid}/comm").read_text() == "tide-workload-o\n" and process.pid, "the name"
    )
    (tmp_path / "pid").write_text(str(pid))
    with pytest.raises(WorkloadAbsent, match="expected the pid of a process named tide-workload-of-another-name"):
        await reload(f"signal:?pidfile={tmp_path}/pid&process=tide-workload-of-another-name")
    assert await reload(f"signal:?process={name.name}") == ReloadAnswer()


async def test_process_of_another_user_is_named_with_both_uids(
    open_folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    pid = start("sleep", "60").pid if os.geteuid() == 0 else 1
    name = await eventually(lambda: Path(f"/proc/{pid}/comm").read_text().strip(), "a name")
    pidfile = open_folder / "pid"
    pidfile.write_text(str(pid))
    with (
        without_privileges(),
        pytest.raises(WorkloadAbsent, match=f"uid {os.geteuid() or NOBODY} may signal, found uid 0") as caught,
    ):
        await reload(f"signal:?pidfile={pidfile}&process={name}")
    assert caught.value.reason == "not_permitted"
