"""The output directory: one whole set at every instant, readable by the workload's group, nothing left behind."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.selection.trust_set import TrustSet
from agent.store.output_directory import InstallFailed, OutputDirectory, StateFileUnreadable
from agent.store.state_file import PersistentState, ProvenSet
from tests.harness.agent.mounts import parsed
from tests.harness.contract.bundle_factory import BundleFactory, LeafFiles
from tests.harness.privileges import NOBODY
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE
from tidemark.certificates import parse_leaf
from tidemark.verify import Known, Mark, verify

STATE = PersistentState(Mark(7, "a" * 64), {"/bundle": 7}, ProvenSet("..7-1", Mark(7, "a" * 64), None, ""))


def make(factory: BundleFactory, sequence: int, leaf: LeafFiles | None = None) -> TrustSet:
    verified = verify(factory.bundle(sequence), factory.trust(), Known(), factory.now)
    return TrustSet(verified, parsed(leaf)) if leaf else TrustSet(verified)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def output(tmp_path: Path) -> OutputDirectory:
    made = OutputDirectory(tmp_path / "out")
    made.open()
    return made


def test_output_directory_is_laid_out_like_kubelet_mount(factory: BundleFactory, output: OutputDirectory) -> None:
    leaf = factory.leaf()
    trust_set = make(factory, 3, leaf)
    assert output.install(trust_set) == "..3-1"
    links = {entry.name: str(entry.readlink()) for entry in output.path.iterdir() if entry.is_symlink()}
    names = (CA_FILE, NOTE_FILE, LEAF_FILE, KEY_FILE)
    assert links == {"..data": "..3-1"} | {name: f"..data/{name}" for name in names}
    assert (output.path / KEY_FILE).read_bytes() == leaf.key
    read = output.read("..3-1")
    assert read is not None
    assert (read.bundle, read.leaf) == (trust_set.verified.bundle, (leaf.crt, leaf.key))


def test_files_are_readable_by_group_and_not_by_others(factory: BundleFactory, output: OutputDirectory) -> None:
    group = NOBODY if os.geteuid() == 0 else output.path.stat().st_gid
    os.chown(output.path, -1, group)
    with umask(0o077):
        directory = output.install(make(factory, 1, factory.leaf()))
    for file in (output.path / directory).iterdir():
        assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_gid) == (0o640, group)
    folder = (output.path / directory).stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_gid) == (0o750, group)


def test_link_of_unmanaged_leaf_is_removed(factory: BundleFactory, output: OutputDirectory) -> None:
    output.install(make(factory, 1, factory.leaf()))
    output.install(make(factory, 2))
    assert not (output.path / KEY_FILE).is_symlink()
    assert (output.path / CA_FILE).exists()


def test_same_statement_can_be_installed_again(factory: BundleFactory, output: OutputDirectory) -> None:
    assert [output.install(make(factory, 1, factory.leaf())) for _ in range(3)] == ["..1-1", "..1-2", "..1-3"]
    output.sweep(["..1-2"])
    assert sorted(entry.name for entry in output.path.iterdir() if entry.name.startswith("..1")) == ["..1-2", "..1-3"]
    output.put_back("..1-2")
    assert output.current() == "..1-2"


def test_readers_see_old_set_or_new_set(factory: BundleFactory, output: OutputDirectory) -> None:
    sets = [make(factory, sequence, factory.leaf()) for sequence in range(1, 5)]
    output.install(sets[0])
    torn: list[str] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            folder = os.open(output.path / "..data", os.O_RDONLY | os.O_DIRECTORY)
            try:
                files = {}
                for name in (LEAF_FILE, KEY_FILE):
                    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
                        files[name] = file.read()
                parse_leaf(files[LEAF_FILE], files[KEY_FILE])
            except FileNotFoundError:
                continue  # swept while it was read: the reader looks again, as with a kubelet's mount
            except ValueError as error:
                torn.append(str(error))
            finally:
                os.close(folder)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        for trust_set in sets:
            output.install(trust_set)
            output.sweep([])
    over.set()
    reader.join()
    assert torn == []


def test_files_are_synced_before_switch(
    factory: BundleFactory, output: OutputDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, str | None]] = []
    sync = os.fsync

    def noting(fd: int) -> None:
        sync(fd)
        path = Path(f"/proc/self/fd/{fd}").readlink().relative_to(output.path.resolve())
        synced.append((str(path), output.current()))

    monkeypatch.setattr(os, "fsync", noting)
    output.install(make(factory, 1, factory.leaf()))
    output.make_durable()
    output.write_state(STATE)
    files = [(f"..1-1/{name}", None) for name in (CA_FILE, NOTE_FILE, LEAF_FILE, KEY_FILE)]
    assert synced == [*files, ("..1-1", None), (".", "..1-1"), (".tidemark.json.new", "..1-1")]


def test_open_cleans_up_after_kill(factory: BundleFactory, output: OutputDirectory) -> None:
    output.install(make(factory, 1, factory.leaf()))
    (output.path / "..2-1").mkdir()
    (output.path / "..2-1" / CA_FILE).write_bytes(b"half")
    (output.path / "..data_tmp").symlink_to("..2-1")
    (output.path / ".tidemark.json.new").write_bytes(b"{")
    (output.path / CA_FILE).unlink()
    output.open()
    output.sweep([])
    names = {entry.name for entry in output.path.iterdir()}
    assert names == {"..1-1", "..data", CA_FILE, NOTE_FILE, LEAF_FILE, KEY_FILE}
    assert output.current() == "..1-1"


@pytest.mark.parametrize("target", ["elsewhere", "../out", "/etc", "..9-9"])
def test_link_to_foreign_directory_is_no_installed_set(output: OutputDirectory, target: str) -> None:
    (output.path / "..data").symlink_to(target)
    assert output.current() is None


def test_file_in_place_of_directory_is_named(factory: BundleFactory, output: OutputDirectory) -> None:
    (output.path / CA_FILE).write_text("somebody's own")
    with pytest.raises(InstallFailed, match=r"ca\.crt: expected to write there, found File exists \(EEXIST\)"):
        output.install(make(factory, 1))
    assert output.current() is None
    assert sorted(entry.name for entry in output.path.iterdir()) == ["..data_tmp", CA_FILE]


def test_state_file_round_trips(output: OutputDirectory) -> None:
    assert output.read_state() == PersistentState()
    for state in (STATE, PersistentState(STATE.highest), PersistentState()):
        output.write_state(state)
        assert output.read_state() == state


@pytest.mark.parametrize("content", [b"", b"[]", b'{"highest":{"sequence":0,"digest":"x"}}', b"\xff"])
def test_unusable_state_file_is_named(output: OutputDirectory, content: bytes) -> None:
    (output.path / ".tidemark.json").write_bytes(content)
    with pytest.raises(StateFileUnreadable, match=r"\.tidemark\.json: expected the agent's state file"):
        output.read_state()
