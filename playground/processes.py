"""Child processes that never outlive the playground: named, logged to files, stopped in order."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LOG_TAIL = 2000


class ChildFailed(Exception):
    """A process ended by itself, or did not start; the message holds the end of its log."""


def _die_with_parent(parent: int) -> None:
    """In the child: be killed when the playground itself is killed and cannot clean up (prctl(2), Linux)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before we could ask for that
        os._exit(1)


class Child:
    """One process. ``start`` once, then ``stop``; ``ended`` raises if it ends by itself."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command = command
        self._environment = {"PATH": os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1", **environment}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """The process id; raises ChildFailed before the start."""
        return self._started().pid

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ChildFailed(f"{self.name}: expected it to have been started, it was not")
        return self._process

    async def start(self) -> None:
        """Start the process in a session of its own, so that a Ctrl-C reaches the playground alone."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=partial(_die_with_parent, os.getpid()) if sys.platform == "linux" else None,
            )

    async def ended(self) -> None:
        """Wait for the end; raises ChildFailed unless ``stop`` brought it about."""
        status = await self._started().wait()
        if not self._stopping:
            raise ChildFailed(
                f"{self.name} ended by itself with status {status}; the end of its log:\n{self.log_tail()}"
            )

    async def finished(self, within: float) -> None:
        """Wait for a process that ends by itself, as commands do; raises ChildFailed unless its status is 0."""
        self._stopping = True
        try:
            status = await asyncio.wait_for(self._started().wait(), within)
        except TimeoutError:
            await self.stop(0)
            raise ChildFailed(f"{self.name}: expected it to finish within {within:g} s, it did not") from None
        if status:
            raise ChildFailed(f"{self.name} ended with status {status}; the end of its log:\n{self.log_tail()}")

    async def stop(self, grace: float) -> None:
        """Ask the process to end, and kill it after ``grace`` seconds."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            process.kill()
            await process.wait()

    def log_tail(self) -> str:
        """The last lines that the process wrote."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return text[-_LOG_TAIL:].strip() or "(nothing)"
