"""Finds a workload's process with psutil, and reads its facts before a signal."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")
_KERNEL_NAME_LENGTH = 15
"""The kernel cuts the name of a process there (proc_pid_comm(5))."""
_ENDED = "ZX"
"""States of proc_pid_stat(5): a process that its parent has not collected yet, and a dead one."""


@dataclass(frozen=True, slots=True)
class WorkloadProcess:
    """A running process."""

    pid: int
    name: str
    """The kernel's name; where the kernel has cut it, the name of the command."""
    parent: int
    """Pid of the process that started it."""
    started: float
    """Start time in seconds of the boot clock, rounded down to a clock tick."""

    def is_named(self, name: str) -> bool:
        """Whether this is its name, or its name as the kernel cuts it."""
        return _is_named(self.name, name)


def read_process(pid: int) -> WorkloadProcess | None:
    """The process as it is now; None if it has ended, also where its parent has not collected it yet, or is none that
    this process may see (``hidepid``, proc(5)).

    One read of proc_pid_stat(5), for two reasons (decision 36). psutil's start times are of the wall clock, by a boot
    time in whole seconds: off by up to a second, and a server must not be signalled in its first second. And this
    function stands between a set and its reload: psutil takes five times as long for the same facts.
    """
    try:
        stat = (Path(psutil.PROCFS_PATH) / str(pid) / "stat").read_bytes().decode(errors="replace")
        name = stat[stat.index("(") + 1 : stat.rindex(")")]  # the name may hold spaces and parentheses
        state, parent, *fields = stat[stat.rindex(")") + 2 :].split()
        if state in _ENDED:
            return None
        if len(name) == _KERNEL_NAME_LENGTH:
            name = psutil.Process(pid).name()
        return WorkloadProcess(pid, name, int(parent), int(fields[17]) / _TICKS)
    except (psutil.Error, FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def effective_user(pid: int) -> int | None:
    """The uid that the process has now; None if the process has ended, or is none that this process may see."""
    try:
        return psutil.Process(pid).uids().effective
    except psutil.Error:
        return None
    except IndexError:
        # psutil expects a line "Uid" in /proc/PID/status. There are versions of gVisor that write none
        # (pkg/sentry/fsimpl/proc/task_files.go); the directory belongs to the user as well (proc(5)).
        try:
            return (Path(psutil.PROCFS_PATH) / str(pid)).stat().st_uid
        except OSError:
            return None


def find_processes(name: str) -> list[WorkloadProcess]:
    """Every running process of this name, except this one."""
    found = (read_process(pid) for pid in _pids_named(name) if pid != os.getpid())
    # Read again: psutil's list may be a moment old, and a pid another process's by now.
    return [process for process in found if process is not None and process.is_named(name)]


def _pids_named(name: str) -> Iterator[int]:
    for process in psutil.process_iter():
        try:
            if _is_named(process.name(), name):
                yield process.pid
        except psutil.Error:  # it has ended meanwhile, or is none that this process may see
            continue


def _is_named(found: str, name: str) -> bool:
    return found == name or (len(name) == _KERNEL_NAME_LENGTH and found[:_KERNEL_NAME_LENGTH] == name)
