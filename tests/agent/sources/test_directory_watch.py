"""The watch on directories: how it ends."""

import asyncio
from pathlib import Path

import pytest

from agent.sources.directory_watch import DirectoryWatch, Identity, WatchMode


def identity(directory: Path) -> Identity:
    status = directory.stat()
    return status.st_dev, status.st_ino


@pytest.mark.parametrize("mode", [WatchMode.INOTIFY, WatchMode.POLL])
async def test_cancellation_while_the_watch_ends_reaches_the_caller(tmp_path: Path, mode: WatchMode) -> None:
    is_leaving = asyncio.Event()

    async def watch_once() -> None:
        async with DirectoryWatch({tmp_path: identity(tmp_path)}, {}, mode) as watch:
            await watch.changed(0)
            is_leaving.set()

    task = asyncio.create_task(watch_once())
    await is_leaving.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
