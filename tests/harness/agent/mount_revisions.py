"""Mounts whose files carry a revision number, and mounts of which inotify announces nothing."""

import asyncio
import contextlib
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import asyncinotify

import agent.sources.polling  # noqa: F401 - imported late elsewhere, and who has given up privileges may not find it
from agent.sources.mounts import BUNDLE_FILES, LEAF_FILES, MountContents, SourceSnapshot
from agent.sources.watching import MountSources
from tests.harness.agent.mounts import KubeletMount
from tests.harness.privileges import without_privileges
from tests.harness.tools import tool


def files(revision: int) -> dict[str, bytes]:
    """The files of bundle and leaf at one revision."""
    return {name: f"{name} {revision}".encode() for name in (*BUNDLE_FILES, *LEAF_FILES)}


def revision(contents: MountContents | None) -> int:
    """The revision of a mount's files; fails where there are no files or several revisions."""
    assert contents is not None
    assert contents.files is not None, contents.fault
    (found,) = {int(content.split()[1]) for content in contents.files.values()}
    return found


@contextlib.asynccontextmanager
async def watching(sources: MountSources) -> AsyncIterator[list[SourceSnapshot]]:
    """What the sources deliver while the context lasts."""
    delivered: list[SourceSnapshot] = []
    task = asyncio.create_task(sources.run(delivered.append))
    try:
        yield delivered
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.contextmanager
def no_inotify_instances() -> Iterator[contextlib.ExitStack]:
    """Use up the inotify instances of the user ``nobody``; closing the stack releases them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with without_privileges(), contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):
            while True:
                taken.enter_context(asyncinotify.Inotify())
        yield taken
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class LinkedMount(KubeletMount):
    """A directory of links to files elsewhere; inotify announces no change of those files for this directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.with_name(f"{path.name}-elsewhere"))
        self.linked = path

    def switch_to(self, files: Mapping[str, bytes]) -> None:
        super().switch_to(files)
        self.linked.mkdir(exist_ok=True)
        for name in files:
            if not (self.linked / name).is_symlink():
                (self.linked / name).symlink_to(self.path / name)


@contextlib.contextmanager
def fuse_mount(behind: Path, path: Path) -> Iterator[Path]:
    """A FUSE file system at ``path`` that shows ``behind``; inotify announces no change of ``behind``."""
    path.mkdir()
    subprocess.run([tool("bindfs"), "--no-allow-other", behind, path], check=True)
    try:
        yield path
    finally:
        subprocess.run([tool("fusermount"), "-u", "-z", path], check=True)
