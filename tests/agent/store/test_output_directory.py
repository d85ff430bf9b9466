"""The output directory: one whole set at every instant, readable by the workload's group, nothing left behind."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.selection.trust_set import TrustSet
from agent.store.output_directory import InstallFailed, OutputDirectory, StateFileUnreadable
from agent.store.state_file import PersistentState, ProvenSet
from tests.harness.agent.mounts import parsed
from tests.harness.agent.sandbox import AgentSandbox
from tests.harness.contract.bundle_factory import BundleFactory, LeafFiles
from tests.harness.privileges import NOBODY
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE
from tidemark.certificates import parse_leaf
from tidemark.receipt import AgentState
from tidemark.verify import Known, Mark, verify

MEMORY = PersistentState(Mark(7, "a" * 64), {"/bundle": 7}, ProvenSet("..7-1", Mark(7, "a" * 64), None, ""))


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


def test_it_is_laid_out_as_the_kubelet_would(factory: BundleFactory, output: OutputDirectory) -> None:
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


def test_the_group_of_the_directory_may_read_and_others_may_not(
    factory: BundleFactory, output: OutputDirectory
) -> None:
    group = NOBODY if os.geteuid() == 0 else output.path.stat().st_gid
    os.chown(output.path, -1, group)
    with umask(0o077):
        directory = output.install(make(factory, 1, factory.leaf()))
    for file in (output.path / directory).iterdir():
        assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_gid) == (0o640, group)
    folder = (output.path / directory).stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_gid) == (0o750, group)


def test_a_leaf_that_is_no_longer_managed_leaves_no_link(factory: BundleFactory, output: OutputDirectory) -> None:
    output.install(make(factory, 1, factory.leaf()))
    output.install(make(factory, 2))
    assert not (output.path / KEY_FILE).is_symlink()
    assert (output.path / CA_FILE).exists()


def test_the_same_statement_may_be_installed_again(factory: BundleFactory, output: OutputDirectory) -> None:
    assert [output.install(make(factory, 1, factory.leaf())) for _ in range(3)] == ["..1-1", "..1-2", "..1-3"]
    output.sweep(["..1-2"])
    assert sorted(entry.name for entry in output.path.iterdir() if entry.name.startswith("..1")) == ["..1-2", "..1-3"]
    output.put_back("..1-2")
    assert output.current() == "..1-2"


def test_readers_see_one_set_or_the_other(factory: BundleFactory, output: OutputDirectory) -> None:
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


def test_files_are_on_the_disk_before_anything_points_to_them(
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
    output.write_state(MEMORY)
    files = [(f"..1-1/{name}", None) for name in (CA_FILE, NOTE_FILE, LEAF_FILE, KEY_FILE)]
    assert synced == [*files, ("..1-1", None), (".", "..1-1"), (".tidemark.json.new", "..1-1")]


def test_what_a_kill_left_half_done_is_mended(factory: BundleFactory, output: OutputDirectory) -> None:
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
def test_a_link_to_no_set_of_ours_is_no_set(output: OutputDirectory, target: str) -> None:
    (output.path / "..data").symlink_to(target)
    assert output.current() is None


def test_a_file_in_the_way_is_named(factory: BundleFactory, output: OutputDirectory) -> None:
    (output.path / CA_FILE).write_text("somebody's own")
    with pytest.raises(InstallFailed, match=r"ca\.crt: expected to write there, found File exists \(EEXIST\)"):
        output.install(make(factory, 1))
    assert output.current() is None
    assert sorted(entry.name for entry in output.path.iterdir()) == ["..data_tmp", CA_FILE]


def test_the_memory_is_what_was_remembered(output: OutputDirectory) -> None:
    assert output.read_state() == PersistentState()
    for memory in (MEMORY, PersistentState(MEMORY.highest), PersistentState()):
        output.write_state(memory)
        assert output.read_state() == memory


@pytest.mark.parametrize("content", [b"", b"[]", b'{"highest":{"sequence":0,"digest":"x"}}', b"\xff"])
def test_a_memory_that_is_none_is_named(output: OutputDirectory, content: bytes) -> None:
    (output.path / ".tidemark.json").write_bytes(content)
    with pytest.raises(StateFileUnreadable, match=r"\.tidemark\.json: expected the agent's state file"):
        output.read_state()


async def test_a_lost_memory_does_not_lose_the_installed_set(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(5), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    (sandbox.out / ".tidemark.json").write_bytes(b"garbage")
    sandbox.mount(factory.bundle(4))
    async with sandbox.agent() as observed:
        status = await observed.is_proven(5)
        assert status.highest is not None
        assert status.highest.sequence == 5, "what is installed was verified once"


async def test_a_replay_is_known_after_a_restart(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(5), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    sandbox.mount(factory.bundle(4))
    async with sandbox.agent() as observed:
        await observed.fails("replay")
        assert sandbox.installed().sequence == 5


async def test_an_installed_set_that_was_tampered_with_is_not_believed(
    factory: BundleFactory, sandbox: AgentSandbox
) -> None:
    sandbox.mount(factory.bundle(5), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    file = sandbox.out / "ca.crt"
    file.write_bytes(file.read_bytes() + factory.leaf().crt)
    sandbox.bundle_mount.path.rename(sandbox.folder / "away")
    async with sandbox.agent() as observed:
        status = await observed.fails("mount_missing")
        assert (status.state, status.installed) == (AgentState.STARTING, None)


@pytest.mark.parametrize("other", [{"leaf_sha256": "0" * 64}, {"mark": Mark(5, "0" * 64)}])
async def test_another_set_in_the_proven_ones_directory_was_not_proven(
    factory: BundleFactory, sandbox: AgentSandbox, other: dict[str, Any]
) -> None:
    sandbox.mount(factory.bundle(5), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    output = OutputDirectory(sandbox.out)
    memory = output.read_state()
    assert memory.proven is not None
    output.write_state(replace(memory, proven=replace(memory.proven, **other)))
    sandbox.targets = "signal:?process=tide-nobody"
    async with sandbox.agent() as observed:
        status = await observed.fails("no_process")
        assert status.installed is not None
        assert status.proven is None
