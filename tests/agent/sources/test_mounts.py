"""Reading of the mounts: whole, of one revision, and with a reason where a file is missing."""

import threading
from pathlib import Path

from agent.sources.mounts import BUNDLE_FILES, LEAF_FILES, read_mount
from tests.harness.agent.mount_revisions import files, revision
from tests.harness.agent.mounts import KubeletMount
from tidemark.verify import MAX_BYTES


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_mount_is_read_with_the_time_of_its_switch(mount: KubeletMount) -> None:
    mount.switch_to(files(1))
    contents = read_mount(mount.path, BUNDLE_FILES)
    assert revision(contents) == 1
    assert contents.moved_at == (mount.path / "..data").lstat().st_ctime
    assert (contents.fault, contents.not_live) == (None, "")


def test_reading_never_mixes_two_revisions(mount: KubeletMount) -> None:
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
        readings = [read_mount(mount.path, (*BUNDLE_FILES, *LEAF_FILES)) for _ in range(300)]
    finally:
        over.set()
        writer.join()
    assert {reading.fault.reason for reading in readings if reading.fault} <= {"unstable"}
    assert len({revision(reading) for reading in readings if reading.fault is None}) > 1


def test_missing_mount_and_missing_file_are_named(mount: KubeletMount) -> None:
    contents = read_mount(mount.path, BUNDLE_FILES)
    assert contents.fault
    assert (contents.fault.reason, contents.not_live) == ("mount_missing", "")
    mount.switch_to({"ca.crt": b"x"})
    contents = read_mount(mount.path, BUNDLE_FILES)
    assert contents.fault
    assert contents.fault.reason == "source_unreadable"
    assert f"{mount.path}/bundle.note: expected a readable file, found No such file" in contents.fault.detail


def test_file_is_read_up_to_the_largest_bundle(mount: KubeletMount) -> None:
    mount.switch_to(files(1) | {"ca.crt": b"#" * (3 * MAX_BYTES)})
    contents = read_mount(mount.path, BUNDLE_FILES)
    assert contents.files
    assert len(contents.files["ca.crt"]) == MAX_BYTES + 1


def test_directory_in_place_of_a_file_is_named_and_leaks_no_descriptor(mount: KubeletMount) -> None:
    mount.switch_to(files(1))
    (mount.path / "..data" / "bundle.note").unlink()
    (mount.path / "..data" / "bundle.note").mkdir()
    before = descriptors()
    for _ in range(3):
        contents = read_mount(mount.path, BUNDLE_FILES)
        assert contents.fault
        assert f"{mount.path}/bundle.note: expected a readable file, found Is a directory" in contents.fault.detail
    assert descriptors() == before
