"""When to check a directory: at its events where watchfiles is installed (extra ``watch``), otherwise repeatedly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

_CHECK_SECONDS = 0.5
_STEP_MS = 100  # the thread of watchfiles looks this often whether an event has come
_LONGEST_MS = 5_000


async def repeatedly(seconds: float) -> AsyncIterator[None]:
    """Yield at once, and then again and again."""
    while True:
        yield None
        await asyncio.sleep(seconds)


def events_of(directory: Path) -> AsyncIterator[None]:
    """Yield when ``directory`` may have changed, what is below it aside.

    With watchfiles at its events, and every 5 s: some file systems announce nothing, and a directory that is made anew
    has to be watched anew. Without watchfiles every half second.
    """
    try:
        import watchfiles  # noqa: F401, PLC0415 # loaded by applications that need it alone
    except ImportError:
        return repeatedly(_CHECK_SECONDS)
    return _watched(directory)


async def _watched(directory: Path) -> AsyncIterator[None]:
    from watchfiles import awatch  # noqa: PLC0415 # as above

    while True:
        identity = _identity(directory)
        changes = awatch(
            directory,
            watch_filter=None,
            debounce=_STEP_MS,
            step=_STEP_MS,
            rust_timeout=_LONGEST_MS,
            yield_on_timeout=True,
            recursive=False,
        )
        # watchfiles raises OSError or RuntimeError, at times in a group: the directory is missing, or no inotify
        # instance is left. A reload that fails reports a fault of the directory. Until the directory can be watched,
        # it is checked as often as without the library.
        try:
            async with contextlib.aclosing(changes):
                async for _ in changes:
                    yield None
                    if _identity(directory) != identity:
                        break
        except* (OSError, RuntimeError):
            pass
        await asyncio.sleep(_CHECK_SECONDS)
        yield None


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
