"""Durable files: whole or not at all, never over what stands, with exactly the mode asked for."""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from authority.support import atomic_files


@pytest.fixture(params=[0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    previous = os.umask(request.param)
    yield
    os.umask(previous)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_file_has_exactly_its_mode(tmp_path: Path) -> None:
    atomic_files.replace_file(tmp_path / "public", b"1", atomic_files.PUBLIC)
    atomic_files.create_file(tmp_path / "secret", b"1", atomic_files.SECRET)
    atomic_files.create_directory(tmp_path / "ca", {"ca.key": b"1"})
    assert mode(tmp_path / "public") == 0o644
    assert mode(tmp_path / "secret") == 0o600
    assert mode(tmp_path / "ca") == 0o700
    assert mode(tmp_path / "ca/ca.key") == 0o600


def test_replace_writes_over_an_existing_file(tmp_path: Path) -> None:
    atomic_files.replace_file(tmp_path / "file", b"1", atomic_files.PUBLIC)
    atomic_files.replace_file(tmp_path / "file", b"2", atomic_files.SECRET)
    assert (tmp_path / "file").read_bytes() == b"2"
    assert mode(tmp_path / "file") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_create_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    atomic_files.create_file(tmp_path / "file", b"1", atomic_files.SECRET)
    with pytest.raises(FileExistsError):
        atomic_files.create_file(tmp_path / "file", b"2", atomic_files.SECRET)
    atomic_files.create_directory(tmp_path / "ca", {"ca.key": b"1"})
    with pytest.raises(OSError, match="not empty"):
        atomic_files.create_directory(tmp_path / "ca", {"ca.key": b"2"})
    assert (tmp_path / "file").read_bytes() == (tmp_path / "ca/ca.key").read_bytes() == b"1"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "ca"}


def test_one_of_several_creators_wins(tmp_path: Path) -> None:
    def create(number: int) -> bool:
        try:
            atomic_files.create_file(tmp_path / "file", f"{number}".encode(), atomic_files.SECRET)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, result in enumerate(pool.map(create, range(32))) if result]
    assert [(tmp_path / "file").read_text()] == [str(number) for number in won]


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OSError, match="directory"):
        atomic_files.replace_file(tmp_path / "taken", b"1", atomic_files.PUBLIC)
    with pytest.raises(OSError, match="No such file"):
        atomic_files.create_directory(tmp_path / "ca", {"x/y": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.usefixtures("umask")
def test_files_written_together_appear_together_or_not_at_all(tmp_path: Path) -> None:
    def pair(data: bytes) -> dict[str, tuple[bytes, int]]:
        return {"key": (data, atomic_files.SECRET), "certificate": (data, atomic_files.PUBLIC)}

    def found() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    atomic_files.replace_file(tmp_path / "certificate", b"0", atomic_files.PUBLIC)
    with pytest.raises(FileExistsError):
        atomic_files.write_together(tmp_path, pair(b"1"), over=False)
    assert found() == {"certificate": b"0"}
    with pytest.raises(OSError, match="No such file"):
        atomic_files.write_together(tmp_path, pair(b"2") | {"no/where": (b"2", atomic_files.PUBLIC)}, over=True)
    assert found() == {"certificate": b"0"}
    atomic_files.write_together(tmp_path, pair(b"3"), over=True)
    assert found() == {"key": b"3", "certificate": b"3"}
    assert (mode(tmp_path / "key"), mode(tmp_path / "certificate")) == (0o600, 0o644)


def test_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    atomic_files.make_directory(tmp_path / "a" / "b", 0o755)
    atomic_files.make_directory(tmp_path / "a" / "b", 0o700)
    assert mode(tmp_path / "a" / "b") == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="directory"):
        atomic_files.make_directory(tmp_path / "file" / "b")


def test_remove_may_be_repeated_and_sweep_spares_whole_files(tmp_path: Path) -> None:
    atomic_files.create_directory(tmp_path / "ca", {"ca.key": b"1"})
    (tmp_path / ".ca.0badcafe.tmp").mkdir()
    (tmp_path / ".ca.0badcafe.tmp" / "ca.key").touch()
    (tmp_path / ".file.0badcafe.tmp").touch()
    atomic_files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]
    atomic_files.remove_directory(tmp_path / "ca")
    atomic_files.remove_directory(tmp_path / "ca")
    assert list(tmp_path.iterdir()) == []
