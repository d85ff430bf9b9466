"""The mounts: read whole, watched without a gap, and named where something is wrong with them."""

import asyncio
import contextlib
import resource
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from agent.sources import mounts
from agent.sources.inotify import Inotify
from agent.sources.mounts import BUNDLE_FILES, LEAF_FILES, MountContents, MountSources, SourceSnapshot, look_at
from tests.harness.nats.server import KubeletMount, eventually, without_privileges
from tidemark.verify import MAX_BYTES


def files(revision: int) -> dict[str, bytes]:
    return {name: f"{name} {revision}".encode() for name in (*BUNDLE_FILES, *LEAF_FILES)}


def revision(look: MountContents | None) -> int:
    assert look is not None
    assert look.files is not None, look.fault
    (found,) = {int(content.split()[1]) for content in look.files.values()}
    return found


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def mount(tmp_path: Path) -> KubeletMount:
    return KubeletMount(tmp_path / "bundle")


def test_a_mount_is_read_with_the_instant_of_its_switch(mount: KubeletMount) -> None:
    mount.switch_to(files(1))
    look = look_at(mount.path, BUNDLE_FILES)
    assert revision(look) == 1
    assert look.moved_at == (mount.path / "..data").lstat().st_ctime
    assert (look.fault, look.not_live) == (None, "")


def test_no_read_mixes_two_revisions(mount: KubeletMount) -> None:
    mount.switch_to(files(0))
    over = threading.Event()

    def switch() -> None:
        number = 0
        while not over.is_set():
            number += 1
            mount.switch_to(files(number))

    writer = threading.Thread(target=switch)
    writer.start()
    try:
        looks = [look_at(mount.path, (*BUNDLE_FILES, *LEAF_FILES)) for _ in range(300)]
    finally:
        over.set()
        writer.join()
    assert {look.fault.reason for look in looks if look.fault} <= {"unstable"}
    assert len({revision(look) for look in looks if look.fault is None}) > 1


def test_what_is_missing_is_named(mount: KubeletMount) -> None:
    look = look_at(mount.path, BUNDLE_FILES)
    assert look.fault
    assert (look.fault.reason, look.not_live) == ("mount_missing", "")
    mount.switch_to({"ca.crt": b"x"})
    look = look_at(mount.path, BUNDLE_FILES)
    assert look.fault
    assert look.fault.reason == "source_unreadable"
    assert f"{mount.path}/bundle.note: expected a readable file, found No such file" in look.fault.detail


def test_a_file_is_read_no_further_than_any_bundle_goes(mount: KubeletMount) -> None:
    mount.switch_to(files(1) | {"ca.crt": b"#" * (3 * MAX_BYTES)})
    look = look_at(mount.path, BUNDLE_FILES)
    assert look.files
    assert len(look.files["ca.crt"]) == MAX_BYTES + 1


def test_a_directory_in_a_files_place_is_named_and_costs_no_descriptor(mount: KubeletMount) -> None:
    mount.switch_to(files(1))
    (mount.path / "..data" / "bundle.note").unlink()
    (mount.path / "..data" / "bundle.note").mkdir()
    before = descriptors()
    for _ in range(3):
        look = look_at(mount.path, BUNDLE_FILES)
        assert look.fault
        assert f"{mount.path}/bundle.note: expected a readable file, found Is a directory" in look.fault.detail
    assert descriptors() == before


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


async def test_each_switch_is_seen(mount: KubeletMount, tmp_path: Path) -> None:
    leaf, trust = KubeletMount(tmp_path / "leaf"), KubeletMount(tmp_path / "trust")
    mount.switch_to(files(1))
    leaf.switch_to(files(1))
    trust.switch_to({"trust.toml": b"trust 1"})
    async with watching(MountSources(mount.path, leaf.path, tmp_path / "trust" / "trust.toml")) as delivered:
        await eventually(lambda: delivered, "the first sight")

        def shows(look: str, number: int) -> bool:
            return revision(getattr(delivered[-1], look)) == number

        for number in range(2, 12):
            mount.switch_to(files(number))
            await eventually(partial(shows, "bundle", number), "the bundle")
            leaf.switch_to(files(number))
            await eventually(partial(shows, "leaf", number), "the leaf")
            trust.switch_to({"trust.toml": f"trust {number}".encode()})
            await eventually(partial(shows, "trust", number), "the trust file")
        assert len(delivered) == 31, "each change once, and nothing else"
        assert delivered[-1].watch_fault == ""


async def test_a_switch_during_the_first_look_is_seen(mount: KubeletMount, tmp_path: Path) -> None:
    class Overtaken(MountSources):
        looks = 0

        def look(self) -> SourceSnapshot:
            self.looks += 1
            sighting = super().look()
            if self.looks == 1:
                mount.switch_to(files(2))
            return sighting

    mount.switch_to(files(1))
    async with watching(Overtaken(mount.path, None, tmp_path / "trust.toml")) as delivered:
        await eventually(lambda: len(delivered) == 2 and revision(delivered[1].bundle) == 2, "the second revision")
        assert revision(delivered[0].bundle) == 1


async def test_a_switch_to_the_same_content_is_no_news(mount: KubeletMount, tmp_path: Path) -> None:
    mount.switch_to(files(1))
    async with watching(MountSources(mount.path, None, tmp_path / "trust.toml")) as delivered:
        await eventually(lambda: delivered, "the first sight")
        for _ in range(3):
            mount.switch_to(files(1))
        mount.switch_to(files(2))
        await eventually(lambda: revision(delivered[-1].bundle) == 2, "the next revision")
        assert len(delivered) == 2


@contextlib.contextmanager
def no_watches_left() -> Iterator[contextlib.ExitStack]:
    """Use up what one user may have of inotify instances, as a user whom nobody else is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with without_privileges(), contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):
            while True:
                taken.callback(Inotify([]).close)
        yield taken
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_watches_left_it_says_so_and_reads_all_the_same(open_folder: Path) -> None:
    mount = KubeletMount(open_folder / "bundle")
    mount.switch_to(files(1))
    with no_watches_left():
        async with watching(MountSources(mount.path, None, open_folder / "trust.toml")) as delivered:
            await eventually(lambda: delivered, "the first sight")
            assert revision(delivered[0].bundle) == 1
            expected = f"expected to watch {mount.path}, {open_folder}, found Too many open files"
            assert delivered[0].watch_fault.startswith(expected)


async def test_while_there_are_no_watches_changes_are_seen_at_the_next_look(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_REREAD_SECONDS", 0.1)
    mount = KubeletMount(open_folder / "bundle")
    with no_watches_left() as taken:
        mount.switch_to(files(1))
        async with watching(MountSources(mount.path, None, open_folder / "trust.toml")) as delivered:
            await eventually(lambda: delivered and delivered[-1].watch_fault, "the fault")
            mount.switch_to(files(2))
            await eventually(lambda: revision(delivered[-1].bundle) == 2, "the next revision")
            taken.close()
            await eventually(lambda: delivered[-1].watch_fault == "", "a watch again")
            monkeypatch.setattr(mounts, "_REREAD_SECONDS", 3600.0)
            mount.switch_to(files(3))
            await eventually(lambda: revision(delivered[-1].bundle) == 3, "what is watched again")


async def test_mounts_may_come_late_and_be_made_anew(mount: KubeletMount, tmp_path: Path) -> None:
    leaf, trust = KubeletMount(tmp_path / "leaf"), KubeletMount(tmp_path / "trust")
    async with watching(MountSources(mount.path, leaf.path, tmp_path / "trust" / "trust.toml")) as delivered:
        await eventually(lambda: delivered, "the first sight")
        (first,) = delivered
        assert [look and look.fault and look.fault.reason for look in (first.bundle, first.leaf, first.trust)] == [
            "mount_missing",
            "mount_missing",
            "trust",
        ]
        trust.switch_to({"trust.toml": b"trust 1"})
        leaf.switch_to(files(1))
        mount.switch_to(files(1))
        await eventually(
            lambda: all(
                look and look.files for look in (delivered[-1].bundle, delivered[-1].leaf, delivered[-1].trust)
            ),
            "all three",
        )
        for number in (2, 4):
            mount.path.rename(tmp_path / f"away-{number}")
            await eventually(lambda: delivered[-1].bundle.fault, "the mount to be missed")
            mount.switch_to(files(number))
            await eventually(lambda n=number: delivered[-1].bundle.files and revision(delivered[-1].bundle) == n, "it")  # type: ignore[misc]  # a lambda with a default
            mount.switch_to(files(number + 1))  # and the new one is watched
            await eventually(lambda n=number: revision(delivered[-1].bundle) == n + 1, "the next")  # type: ignore[misc]  # a lambda with a default


async def test_a_mount_that_is_deleted_and_made_anew_at_once_is_watched_again(
    mount: KubeletMount, tmp_path: Path
) -> None:
    mount.switch_to(files(1))
    async with watching(MountSources(mount.path, None, tmp_path / "trust" / "trust.toml")) as delivered:
        (tmp_path / "trust").mkdir()
        await eventually(lambda: delivered and delivered[-1].bundle.files, "the first sight")

        def shows(number: int) -> bool:
            return delivered[-1].bundle.files is not None and revision(delivered[-1].bundle) == number

        for number in range(2, 22, 2):
            shutil.rmtree(mount.path)
            mount.switch_to(files(number))  # where the file system has it so, under the same inode number
            await eventually(partial(shows, number), "the new mount's")
            mount.switch_to(files(number + 1))
            await eventually(partial(shows, number + 1), "the next")


async def test_a_burst_of_switches_ends_with_the_last(mount: KubeletMount, tmp_path: Path) -> None:
    leaf = KubeletMount(tmp_path / "leaf")
    async with watching(MountSources(mount.path, leaf.path, tmp_path / "trust.toml")) as delivered:
        await eventually(lambda: delivered, "the first sight")
        for number in range(1, 200):
            (mount if number % 3 else leaf).switch_to(files(number))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await eventually(
            lambda: (revision(delivered[-1].bundle), revision(delivered[-1].leaf)) == (199, 198), "the last of each"
        )


async def test_a_watch_on_nothing_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/nothing"):
        Inotify([tmp_path / "nothing"])
