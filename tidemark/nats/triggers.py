"""Two ways to notice a new set without HTTP, each one line of code: SIGHUP, and watching the directory.

The outcome of each reload goes to ``on_reload`` and ``on_reload_failed`` of ``connect``; without the latter a failure
is logged.
"""

import asyncio
import signal
from collections.abc import AsyncIterable
from pathlib import Path

from tidemark.nats.connection import Connection
from tidemark.nats.directory_events import events_of, repeatedly
from tidemark.nats.errors import ReloadFailed

_FILES = ("ca.crt", "tls.crt", "tls.key")
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries after failures

_FileState = tuple[int, int, int] | None
"""Inode, size and time of modification (nanoseconds) of a file; None where it cannot be read."""


def reload_on_sighup(*connections: Connection) -> None:
    """Reload these connections at each SIGHUP, as ``kill -HUP`` or an agent's ``signal:`` target sends it.

    A process has one handler for a signal, and this handler replaces any other until the event loop ends. Closed
    connections are skipped.

    Raises:
        TypeError: no connection was given.
    """
    if not connections:
        raise TypeError("reload_on_sighup: expected a connection or more, found none")

    def on_sighup() -> None:
        for connection in connections:
            if not connection.is_closed:
                connection.own(_reload(connection), name="tidemark reload on SIGHUP")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_sighup)


def reload_on_change(
    connection: Connection, *, every: float | None = None, changes: AsyncIterable[object] | None = None
) -> None:
    """Reload whenever the set in the connection's directory changes, until the connection closes.

    For applications that the agent cannot reach by HTTP or signal. The directory is checked at each of its events where
    the package watchfiles is installed (extra ``watch``), otherwise every half second. With ``every`` it is checked
    every so many seconds, with ``changes`` at each item that this iterable yields, such as the events of an
    ``asyncinotify.Inotify`` that watches the directory. A check takes three system calls.

    A reload that fails is tried again after a pause, which grows from 1 s to 30 s, or at the next change.
    """
    if changes is None:
        changes = events_of(connection.directory) if every is None else repeatedly(every)
    connection.own(_watch(connection, changes), name="tidemark watch")


async def _watch(connection: Connection, checks: AsyncIterable[object]) -> None:
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_detect_changes(connection.directory, checks, changed))
        while True:
            await changed.wait()
            changed.clear()
            pause = _FIRST_PAUSE
            while not await _reload(connection):
                try:
                    async with asyncio.timeout(pause):
                        await changed.wait()
                except TimeoutError:
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    changed.clear()
                    pause = _FIRST_PAUSE


async def _detect_changes(directory: Path, checks: AsyncIterable[object], changed: asyncio.Event) -> None:
    before = _file_states(directory)
    changed.set()  # a set may have been installed between ``connect`` and this check
    async for _ in checks:
        if (now := _file_states(directory)) != before:
            before = now
            changed.set()


async def _reload(connection: Connection) -> bool:
    """Whether the installed set is in use now; the connection itself reports a failure."""
    try:
        await connection.reload()
    except ReloadFailed:
        return False
    return True


def _file_states(directory: Path) -> tuple[_FileState, ...]:
    """What changes whenever a file is replaced or rewritten; links are followed."""
    return tuple(_file_state(directory / name) for name in _FILES)


def _file_state(path: Path) -> _FileState:
    try:
        status = path.stat()
    except OSError:  # the reload that follows fails too, and reports the reason
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
