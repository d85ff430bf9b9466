"""The watch on the mounts: no change is missed, whether inotify announces it or not."""

import asyncio
import contextlib
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agent.reporting.status import to_json
from agent.sources.directory_watch import WatchMode
from agent.sources.mounts import SourceSnapshot
from agent.sources.watching import MountSources, WatchTimes
from tests.harness.agent.mount_revisions import LinkedMount, files, fuse_mount, no_inotify_instances, revision, watching
from tests.harness.agent.mounts import KubeletMount
from tests.harness.agent.sandbox import AgentSandbox
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.privileges import without_privileges
from tests.harness.waiting import eventually

BRIEF = WatchTimes(reread=0.3, missing=0.3, announcement=0.3)
NEVER = WatchTimes(reread=3600.0, missing=3600.0)


def is_at(delivered: list[SourceSnapshot], number: int, mount: str = "bundle") -> bool:
    contents = getattr(delivered[-1], mount) if delivered else None
    return contents is not None and contents.files is not None and revision(contents) == number


def watched_inodes() -> set[int]:
    """The inodes that this process watches by inotify (proc_pid_fdinfo(5))."""
    found: set[int] = set()
    for entry in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor that lists them
            found |= {int(number, 16) for number in re.findall(r"^inotify wd:\w+ ino:(\w+)", entry.read_text(), re.M)}
    return found


async def test_each_switch_of_each_mount_is_delivered_once(mount: KubeletMount, tmp_path: Path) -> None:
    leaf, trust = KubeletMount(tmp_path / "leaf"), KubeletMount(tmp_path / "trust")
    mount.switch_to(files(1))
    leaf.switch_to(files(1))
    trust.switch_to({"trust.toml": b"trust 1"})
    async with watching(MountSources(mount.path, leaf.path, tmp_path / "trust" / "trust.toml")) as delivered:
        await eventually(lambda: delivered, "the first reading")

        for number in range(2, 12):
            mount.switch_to(files(number))
            await eventually(partial(is_at, delivered, number, "bundle"), "the bundle")
            leaf.switch_to(files(number))
            await eventually(partial(is_at, delivered, number, "leaf"), "the leaf")
            trust.switch_to({"trust.toml": f"trust {number}".encode()})
            await eventually(partial(is_at, delivered, number, "trust"), "the trust file")
        assert len(delivered) == 31, "each change once, and nothing else"
        assert delivered[-1].watch_fault == ""


async def test_switch_during_the_first_reading_is_delivered(mount: KubeletMount, tmp_path: Path) -> None:
    class Overtaken(MountSources):
        readings = 0

        def read(self) -> SourceSnapshot:
            self.readings += 1
            snapshot = super().read()
            if self.readings == 1:
                mount.switch_to(files(2))
            return snapshot

    mount.switch_to(files(1))
    async with watching(Overtaken(mount.path, None, tmp_path / "trust.toml")) as delivered:
        await eventually(lambda: len(delivered) == 2 and revision(delivered[1].bundle) == 2, "the second revision")
        assert revision(delivered[0].bundle) == 1


async def test_switch_to_the_same_content_is_not_delivered(mount: KubeletMount, tmp_path: Path) -> None:
    mount.switch_to(files(1))
    async with watching(MountSources(mount.path, None, tmp_path / "trust.toml")) as delivered:
        await eventually(lambda: delivered, "the first reading")
        for _ in range(3):
            mount.switch_to(files(1))
        mount.switch_to(files(2))
        await eventually(lambda: revision(delivered[-1].bundle) == 2, "the next revision")
        assert len(delivered) == 2


async def test_mounts_that_come_late_or_anew_are_watched(mount: KubeletMount, tmp_path: Path) -> None:
    leaf, trust = KubeletMount(tmp_path / "leaf"), KubeletMount(tmp_path / "trust")
    async with watching(MountSources(mount.path, leaf.path, tmp_path / "trust" / "trust.toml")) as delivered:
        await eventually(lambda: delivered, "the first reading")
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
            await eventually(partial(is_at, delivered, number), "the mount")
            mount.switch_to(files(number + 1))  # and the new one is watched
            await eventually(partial(is_at, delivered, number + 1), "the next")


async def test_mount_deleted_and_made_anew_at_once_is_watched_again(mount: KubeletMount, tmp_path: Path) -> None:
    mount.switch_to(files(1))
    async with watching(MountSources(mount.path, None, tmp_path / "trust" / "trust.toml")) as delivered:
        (tmp_path / "trust").mkdir()
        await eventually(lambda: delivered and delivered[-1].bundle.files, "the first reading")

        for number in range(2, 22, 2):
            shutil.rmtree(mount.path)
            mount.switch_to(files(number))  # where the file system has it so, under the same inode number
            await eventually(partial(is_at, delivered, number), "the new mount's")
            mount.switch_to(files(number + 1))
            await eventually(partial(is_at, delivered, number + 1), "the next")


async def test_burst_of_switches_ends_with_the_last(mount: KubeletMount, tmp_path: Path) -> None:
    leaf = KubeletMount(tmp_path / "leaf")
    async with watching(MountSources(mount.path, leaf.path, tmp_path / "trust.toml")) as delivered:
        await eventually(lambda: delivered, "the first reading")
        for number in range(1, 200):
            (mount if number % 3 else leaf).switch_to(files(number))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: is_at(delivered, 199) and is_at(delivered, 198, "leaf"), "the last of each")


async def test_without_inotify_instances_the_fault_is_delivered_and_readings_go_on(open_folder: Path) -> None:
    mount = KubeletMount(open_folder / "bundle")
    with no_inotify_instances() as taken:
        mount.switch_to(files(1))
        sources = MountSources(mount.path, None, open_folder / "trust.toml", WatchMode.INOTIFY, BRIEF)
        async with watching(sources) as delivered:
            await eventually(lambda: is_at(delivered, 1), "the first reading")
            expected = f"expected to watch {mount.path}, {open_folder}, found Too many open files"
            assert delivered[0].watch_fault.startswith(expected)
            mount.switch_to(files(2))
            await eventually(lambda: is_at(delivered, 2), "the next revision")
            assert delivered[-1].polled == {}
            taken.close()
            await eventually(lambda: delivered[-1].watch_fault == "", "a watch again")


async def test_without_inotify_instances_mounts_are_polled_until_there_are_some(open_folder: Path) -> None:
    mount = KubeletMount(open_folder / "bundle")
    with no_inotify_instances() as taken:
        mount.switch_to(files(1))
        sources = MountSources(mount.path, None, open_folder / "trust.toml", times=BRIEF)
        async with watching(sources) as delivered:
            await eventually(lambda: delivered, "the first reading")
            assert delivered[0].polled == dict.fromkeys((mount.path, open_folder), "found Too many open files")
            assert delivered[0].watch_fault == ""
            mount.switch_to(files(2))
            await eventually(lambda: is_at(delivered, 2), "the next revision")
            taken.close()
            await eventually(lambda: delivered[-1].polled == {}, "inotify again")


async def test_mount_that_inotify_refuses_is_polled_alone(open_folder: Path) -> None:
    mount = KubeletMount(open_folder / "bundle")
    with without_privileges():
        mount.switch_to(files(1))
        mount.path.chmod(0o300)  # its files can be opened, and replaced; inotify asks for the right to list them
        async with watching(MountSources(mount.path, None, open_folder / "trust.toml", times=NEVER)) as delivered:
            await eventually(lambda: is_at(delivered, 1), "the first reading")
            assert delivered[0].polled == {mount.path: "found Permission denied"}
            mount.path.chmod(0o700)
            mount.switch_to(files(2))
            await eventually(lambda: is_at(delivered, 2), "the next revision")


async def test_change_without_an_event_switches_that_mount_alone_to_polling(tmp_path: Path) -> None:
    mount, leaf = LinkedMount(tmp_path / "bundle"), KubeletMount(tmp_path / "leaf")
    mount.switch_to(files(1))
    leaf.switch_to(files(1))
    async with watching(MountSources(mount.linked, leaf.path, tmp_path / "trust.toml", times=BRIEF)) as delivered:
        await eventually(lambda: is_at(delivered, 1), "the first reading")
        for number in range(2, 6):
            leaf.switch_to(files(number))
            await eventually(partial(is_at, delivered, number, "leaf"), "the leaf")
        assert delivered[-1].polled == {}
        mount.switch_to(files(2))
        await eventually(lambda: delivered[-1].polled, "polling")
        assert is_at(delivered, 2)
        assert delivered[-1].polled == {mount.linked: "found a change that no event of inotify announced"}


async def test_inotify_mode_never_polls(tmp_path: Path) -> None:
    mount = LinkedMount(tmp_path / "bundle")
    mount.switch_to(files(1))
    sources = MountSources(mount.linked, None, tmp_path / "trust.toml", WatchMode.INOTIFY, BRIEF)
    async with watching(sources) as delivered:
        for number in range(1, 4):
            mount.switch_to(files(number))
            await eventually(partial(is_at, delivered, number), "the revision")
        assert [snapshot.polled for snapshot in delivered] == [{}, {}, {}]
        await eventually(lambda: mount.linked.stat().st_ino in watched_inodes(), "inotify goes on")


async def test_announced_changes_never_lead_to_polling_however_often_mounts_are_read(
    mount: KubeletMount, tmp_path: Path
) -> None:
    mount.switch_to(files(0))
    often = WatchTimes(reread=0.001)
    async with watching(MountSources(mount.path, None, tmp_path / "trust.toml", times=often)) as delivered:
        for number in range(1, 200):
            await asyncio.to_thread(mount.switch_to, files(number))
        await eventually(lambda: is_at(delivered, 199), "the last revision")
        assert not any(snapshot.polled for snapshot in delivered)


@pytest.mark.parametrize("kind", [KubeletMount, LinkedMount])
async def test_poll_mode_delivers_each_change(tmp_path: Path, kind: type[KubeletMount]) -> None:
    mount = kind(tmp_path / "bundle")
    path = mount.linked if isinstance(mount, LinkedMount) else mount.path
    mount.switch_to(files(1))
    async with watching(MountSources(path, None, tmp_path / "trust.toml", WatchMode.POLL, NEVER)) as delivered:
        for number in range(1, 7):
            mount.switch_to(files(number))
            await eventually(partial(is_at, delivered, number), "the revision")
        assert delivered[-1].polled == {path: "", tmp_path: ""}


async def test_polled_mount_that_is_made_anew_is_polled_again(mount: KubeletMount, tmp_path: Path) -> None:
    mount.switch_to(files(1))
    async with watching(MountSources(mount.path, None, tmp_path / "trust.toml", WatchMode.POLL)) as delivered:
        for number in range(1, 5):
            await eventually(partial(is_at, delivered, number), "the mount's revision")
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(mount.path)
            mount.switch_to(files(number + 1))


@pytest.mark.needs("bindfs", "fusermount")
async def test_mount_of_fuse_is_polled_once_a_change_came_without_an_event(tmp_path: Path) -> None:
    behind = KubeletMount(tmp_path / "behind")
    behind.switch_to(files(1))
    with fuse_mount(behind.path, tmp_path / "bundle") as path:
        async with watching(MountSources(path, None, tmp_path / "trust" / "trust.toml", times=BRIEF)) as delivered:
            await eventually(lambda: is_at(delivered, 1), "the first reading")
            behind.switch_to(files(2))
            await eventually(lambda: delivered[-1].polled, "polling")
            assert delivered[-1].polled.keys() == {path}
        async with watching(MountSources(path, None, tmp_path / "trust.toml", WatchMode.POLL, NEVER)) as delivered:
            for number in range(2, 6):
                await eventually(partial(is_at, delivered, number), "the revision")
                behind.switch_to(files(number + 1))


async def test_polled_mount_is_in_status_warning_log_and_metric(
    factory: BundleFactory, sandbox: AgentSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    bundle, leaf = sandbox.bundle_mount.path, sandbox.leaf_mount.path
    async with sandbox.agent() as observed:
        await observed.reaches(lambda s: s.installed and not s.polled, "a set to be installed")
        snapshot = MountSources(bundle, leaf, sandbox.trust_file).read()
        observed.agent.cycle.on_source_change(replace(snapshot, polled={bundle: "found Too many open files"}))
        status = await observed.reaches(lambda s: s.polled, "polling")
        detail = f"{bundle}: expected inotify to announce changes, found Too many open files; it is polled"
        assert [(warning.name, warning.detail) for warning in status.warnings] == [("watch_polling", detail)]
        assert to_json(status, 0)["polled"] == [str(bundle)]
        assert "watch_polling" in [record.getMessage() for record in caplog.records]
        assert observed.agent.registry.get_sample_value("ca_rotation_polled_mounts") == 1


async def test_poll_mode_is_in_status_and_no_warning(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent({"TIDEMARK_WATCH": "poll"}) as observed:
        status = await observed.reaches(lambda s: s.installed and s.polled, "polling")
        assert len(status.polled) == 3
        assert status.warnings == ()
