"""Reloads a workload by a signal, sent through a pidfd (pidfd_open(2)).

A signal goes only to a process of the expected name, and through a pidfd that was opened before the name was read: a
pid that another process has by now is never signalled. A server that has just started does not handle the signal yet
and would be ended by it, so no signal is sent in the first second of a process.
"""

import asyncio
import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.workloads.interface import Expectation, ReloadAnswer, WorkloadAbsent
from agent.workloads.processes import WorkloadProcess, effective_user, find_processes, read_process
from agent.workloads.targets import SignalTarget

FIRST_SECOND = 1.0
"""Seconds after its start in which a server may not handle the signal yet."""
_LONGEST_PID = 10


class SignalReloader:
    """Signals one process. Implements ``Reloader``."""

    def __init__(self, target: SignalTarget) -> None:
        self._target = target

    async def started_after(self, instant: float) -> bool:
        """Implements ``Reloader``; start times are rounded down, so True is certain."""
        with self._open() as (_, process):
            return process.started > instant

    async def reload(self, expected: Expectation, within: float) -> ReloadAnswer:
        """Implements ``Reloader``. The process is found anew at each call: it may have been restarted."""
        with self._open() as (pidfd, process):
            await asyncio.sleep(max(0.0, process.started + FIRST_SECOND - time.clock_gettime(time.CLOCK_BOOTTIME)))
            self._send(pidfd, process)
        return ReloadAnswer()

    @contextmanager
    def _open(self) -> Iterator[tuple[int, WorkloadProcess]]:
        """The process, and a pidfd of it."""
        pid = self._find_pid()
        # The pidfd is opened before the name is read: the name is that of the process that the pidfd refers to, or the
        # process has ended and the signal goes to none.
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            # The number may be a thread's by now, which /proc shows like a process: EINVAL, in newer kernels ENOENT.
            if error.errno in {errno.ESRCH, errno.EINVAL, errno.ENOENT}:
                raise self._ended(pid) from None
            raise WorkloadAbsent(
                "not_permitted", f"process {pid}: expected to open a pidfd of it, found {error.strerror}"
            ) from None
        try:
            yield pidfd, self._check(pid)
        finally:
            os.close(pidfd)

    def _send(self, pidfd: int, process: WorkloadProcess) -> None:
        try:
            signal.pidfd_send_signal(pidfd, self._target.signal)
        except ProcessLookupError:
            raise self._ended(process.pid) from None
        except PermissionError:
            raise WorkloadAbsent(
                "not_permitted",
                f"process {process.pid} ({process.name}): expected one that uid {os.geteuid()} may signal, found uid "
                f"{effective_user(process.pid)}; run the agent with the workload's uid",
            ) from None

    def _find_pid(self) -> int:
        if self._target.pidfile is not None:
            return _read_pid(Path(self._target.pidfile))
        found = find_processes(self._target.process)
        own = [process for process in found if effective_user(process.pid) == os.geteuid()] if len(found) > 1 else []
        candidates = own or found
        if not candidates:
            raise WorkloadAbsent("no_process", f"expected a process named {self._target.process}, found none")
        if len(candidates) > 1:
            pids = ", ".join(f"{process.pid}, a child of {process.parent}" for process in candidates)
            raise WorkloadAbsent(
                "ambiguous",
                f"expected one process named {self._target.process}, found {len(candidates)} ({pids}); "
                f"name one with pidfile=",
            )
        return candidates[0].pid

    def _check(self, pid: int) -> WorkloadProcess:
        process = read_process(pid)
        if process is None:
            raise self._ended(pid)
        where = self._target.pidfile or f"process {pid}"
        if not process.is_named(self._target.process):
            raise WorkloadAbsent(
                "stale_pidfile" if self._target.pidfile else "no_process",
                f"{where}: expected the pid of a process named {self._target.process}, found {pid}, which is "
                f"{process.name}; it was not signalled",
            )
        return process

    def _ended(self, pid: int) -> WorkloadAbsent:
        if self._target.pidfile:
            return WorkloadAbsent(
                "stale_pidfile", f"{self._target.pidfile}: expected a running process, found none with pid {pid}"
            )
        return WorkloadAbsent(
            "no_process", f"expected a process named {self._target.process}, found none: {pid} has ended"
        )


def _read_pid(pidfile: Path) -> int:
    try:
        text = pidfile.read_text().strip()
    except FileNotFoundError:
        raise WorkloadAbsent("no_process", f"{pidfile}: expected a pid file, found none: not started yet?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadAbsent("no_process", f"{pidfile}: expected a readable pid file, found {error}") from None
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_PID and 0 < int(text) < 2**31):
        raise WorkloadAbsent("stale_pidfile", f"{pidfile}: expected a pid in digits, found {text[:20]!r}")
    return int(text)
