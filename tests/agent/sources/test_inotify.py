"""inotify: what it refuses to watch is named, what it announces is named by directory."""

from pathlib import Path

from agent.sources.inotify import Inotify


async def test_missing_directory_is_refused_and_the_others_are_watched(tmp_path: Path) -> None:
    inotify = Inotify([tmp_path / "nothing", tmp_path])
    assert inotify.failures == {tmp_path / "nothing": "No such file or directory"}
    (tmp_path / "file").touch()
    assert await inotify.changed() == {tmp_path}
    await inotify.close()


async def test_changes_are_announced_for_the_directories_that_changed(tmp_path: Path) -> None:
    directories = [tmp_path / name for name in "abc"]
    for directory in directories:
        directory.mkdir()
    inotify = Inotify(directories)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "c" / "file").touch()
    assert await inotify.changed() == {tmp_path / "a", tmp_path / "c"}
    assert inotify.is_complete
    (tmp_path / "b").rmdir()
    assert await inotify.changed() == {tmp_path / "b"}
    assert not inotify.is_complete
    await inotify.close()


async def test_change_of_a_directory_with_two_paths_is_announced_for_both(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "link").symlink_to("mount")
    inotify = Inotify([tmp_path / "mount", tmp_path / "link"])
    (tmp_path / "mount" / "file").touch()
    assert await inotify.changed() == {tmp_path / "mount", tmp_path / "link"}
    assert inotify.is_complete
    await inotify.close()
