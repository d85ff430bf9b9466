"""Two ways to be told of a new set without HTTP, each one line: SIGHUP, and looking at the directory.

What a reload comes to is heard by ``on_reload`` and ``on_reload_failed`` of ``connect``; without the latter a failure
is logged.
"""

import asyncio
import signal
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from tidemark.nats.connection import Connection
from tidemark.nats.errors import ReloadFailed

_FILES = ("ca.crt", "tls.crt", "tls.key")
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries after failures

Look = tuple[tuple[int, int, int] | None, ...]


def reload_on_sighup(*connections: Connection) -> None:
    """Reload these whenever SIGHUP comes, as ``kill -HUP`` or an agent's ``signal:`` target sends it.

    A process has one handler for a signal: this takes the place of any other. It stays until the event loop ends;
    closed connections are passed over.
    """
    if not connections:
        raise TypeError("reload_on_sighup: expected a connection or more, found none")

    def told() -> None:
        for connection in connections:
            if not connection.is_closed:
                connection.own(_reload(connection), name="tidemark reload on SIGHUP")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, told)


def reload_on_change(
    connection: Connection, *, every: float = 0.5, changes: AsyncIterable[object] | None = None
) -> None:
    """Reload whenever the connection's directory changes, until it is closed; for where nobody can tell the process.

    Looks every so many seconds, which costs three system calls and needs nothing installed. Where that is too late,
    ``changes`` says when to look: whatever it yields, such as an ``asyncinotify.Inotify``'s events of the directory.

    A reload that fails is tried again after a pause that grows to half a minute, or at the next change.
    """
    ticks = _every(every) if changes is None else changes
    connection.own(_watch(connection, ticks), name="tidemark watch")


async def _watch(connection: Connection, ticks: AsyncIterable[object]) -> None:
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_look_out(connection.directory, ticks, changed))
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


async def _look_out(directory: Path, ticks: AsyncIterable[object], changed: asyncio.Event) -> None:
    before = _look(directory)
    changed.set()  # what came since connect must not be missed
    async for _ in ticks:
        if (now := _look(directory)) != before:
            before = now
            changed.set()


async def _reload(connection: Connection) -> bool:
    """Whether the set that is installed is in use now; a failure has been told by the connection itself."""
    try:
        await connection.reload()
    except ReloadFailed:
        return False
    return True


async def _every(seconds: float) -> AsyncIterator[None]:
    while True:
        yield None
        await asyncio.sleep(seconds)


def _look(directory: Path) -> Look:
    """What changes whenever a file is replaced or rewritten; links are followed."""
    return tuple(_identity(directory / name) for name in _FILES)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:  # reading it will say why, as a failed reload
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
