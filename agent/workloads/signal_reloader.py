"""Telling a workload to reload: a signal through a pidfd, or a request over HTTP.

A signal goes only to a process whose name is the expected one, and through a pidfd that was opened before the name was
read: a pid that is used again by another process is never hit. A server that has just started does not handle the
signal yet and would die of it, so nothing is signalled in its first second of life.
"""

import asyncio
import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.workloads.interface import Expectation, ReloadAnswer, WorkloadAbsent
from agent.workloads.targets import SignalTarget

FIRST_SECOND = 1.0

_PROC = Path("/proc")

_TICKS = os.sysconf("SC_CLK_TCK")

_COMM_LENGTH = 15

_LONGEST_PID = 10


@dataclass(frozen=True, slots=True)
class WorkloadProcess:
    """A running process; ``started`` in seconds of the boot clock, rounded down to a clock tick."""

    pid: int
    name: str
    uid: int
    started: float


class SignalReloader:
    """Signals one process."""

    def __init__(self, target: SignalTarget) -> None:
        self._target = target

    async def started_after(self, instant: float) -> bool:
        """See ``Reloader``; start times are rounded down, so a yes is certain."""
        with self._found() as (_, process):
            return process.started > instant

    async def reload(self, expected: Expectation, within: float) -> ReloadAnswer:
        """See ``Reloader``. The process is found anew at each call: it may have been restarted."""
        with self._found() as (pidfd, process):
            await asyncio.sleep(max(0.0, process.started + FIRST_SECOND - time.clock_gettime(time.CLOCK_BOOTTIME)))
            self._send(pidfd, process)
        return ReloadAnswer()

    @contextmanager
    def _found(self) -> Iterator[tuple[int, WorkloadProcess]]:
        """The process, and a pidfd that has been its since before its name was read."""
        pid = self._pid()
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            # The number may be a thread's by now, which /proc shows like a process: EINVAL, in newer kernels ENOENT.
            if error.errno in {errno.ESRCH, errno.EINVAL, errno.ENOENT}:
                raise self._gone(pid) from None
            raise WorkloadAbsent(
                "not_permitted", f"process {pid}: expected to open a pidfd of it, found {error.strerror}"
            ) from None
        try:
            yield pidfd, self._checked(pid)
        finally:
            os.close(pidfd)

    def _send(self, pidfd: int, process: WorkloadProcess) -> None:
        try:
            signal.pidfd_send_signal(pidfd, self._target.signal)
        except ProcessLookupError:
            raise self._gone(process.pid) from None
        except PermissionError:
            raise WorkloadAbsent(
                "not_permitted",
                f"process {process.pid} ({process.name}): expected one that uid {os.geteuid()} may signal, found uid "
                f"{process.uid}; run the agent with the workload's uid",
            ) from None

    def _pid(self) -> int:
        if self._target.pidfile is not None:
            return _pid_in(Path(self._target.pidfile))
        found = [process for process in _processes() if _is_named(process, self._target.process)]
        own = [process for process in found if process.uid == os.geteuid()]
        candidates = own if len(found) > 1 and own else found
        if not candidates:
            raise WorkloadAbsent("no_process", f"expected a process named {self._target.process}, found none")
        if len(candidates) > 1:
            pids = ", ".join(str(process.pid) for process in candidates)
            raise WorkloadAbsent(
                "ambiguous",
                f"expected one process named {self._target.process}, found {len(candidates)} ({pids}); "
                f"name one with pidfile=",
            )
        return candidates[0].pid

    def _checked(self, pid: int) -> WorkloadProcess:
        process = _process(pid)
        if process is None:
            raise self._gone(pid)
        where = self._target.pidfile or f"process {pid}"
        if not _is_named(process, self._target.process):
            raise WorkloadAbsent(
                "stale_pidfile" if self._target.pidfile else "no_process",
                f"{where}: expected the pid of a process named {self._target.process}, found {pid}, which is "
                f"{process.name}; it was not signalled",
            )
        return process

    def _gone(self, pid: int) -> WorkloadAbsent:
        if self._target.pidfile:
            return WorkloadAbsent(
                "stale_pidfile", f"{self._target.pidfile}: expected a running process, found none with pid {pid}"
            )
        return WorkloadAbsent(
            "no_process", f"expected a process named {self._target.process}, found none: {pid} has ended"
        )


def _pid_in(pidfile: Path) -> int:
    try:
        text = pidfile.read_text().strip()
    except FileNotFoundError:
        raise WorkloadAbsent("no_process", f"{pidfile}: expected a pid file, found none: not started yet?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadAbsent("no_process", f"{pidfile}: expected a readable pid file, found {error}") from None
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_PID and 0 < int(text) < 2**31):
        raise WorkloadAbsent("stale_pidfile", f"{pidfile}: expected a pid in digits, found {text[:20]!r}")
    return int(text)


def _processes() -> list[WorkloadProcess]:
    found = (_process(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None and process.pid != os.getpid()]


def _process(pid: int) -> WorkloadProcess | None:
    """What /proc says of a process (proc_pid_stat(5)); None if it has ended, also where nobody has reaped it yet, or is
    none that we may see (``hidepid``)."""
    folder = _PROC / str(pid)
    try:
        stat = (folder / "stat").read_bytes().decode(errors="replace")
        uid = folder.stat().st_uid
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return WorkloadProcess(pid, name, uid, int(fields[19]) / _TICKS)


def _is_named(process: WorkloadProcess, name: str) -> bool:
    """Whether it is called that: by its name in the kernel, and by its command where that name is cut."""
    if process.name != name[:_COMM_LENGTH]:
        return False
    if len(name) <= _COMM_LENGTH:
        return True
    try:
        command = (_PROC / str(process.pid) / "cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return False
    return Path(os.fsdecode(command)).name == name
