"""The leaf store in a directory, read as a workload would."""

import os
import stat
from pathlib import Path

import pytest

from authority.publishers.directory import DirectoryPublisher
from authority.publishers.interface import PublishError, PublishOutcome
from authority.publishers.leaf_directory import DirectoryLeafStore
from tests.harness.contract.issued_bundles import IssuedBundles
from tidemark.certificates import parse_leaf


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "mount" / "bundle"


def generations(target: Path) -> list[Path]:
    return list(target.glob("..2*"))


def put_a_file_in_the_way(target: Path) -> None:
    """A file where the directory would have to be: root cannot write there either."""
    target.parent.mkdir()
    target.write_text("in the way")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def group(path: Path) -> int:
    return path.stat().st_gid


def make_for_group(target: Path, gid: int) -> None:
    target.mkdir(parents=True)
    os.chown(target, -1, gid)


async def test_leaf_switches_with_its_key(bundles: IssuedBundles, target: Path) -> None:
    store = DirectoryLeafStore(target)
    assert store.name == str(target)
    assert await store.read() is None
    leaf = await bundles.leaf(await bundles.bundle(1))
    await store.write(leaf)
    assert await store.read() == leaf.certificate_pem
    read = parse_leaf((target / "tls.crt").read_bytes(), (target / "tls.key").read_bytes())
    assert read.certificate_pem == leaf.certificate_pem
    assert mode(target / "tls.key") == 0o640
    assert group(target / "tls.key") == group(target)
    await store.write(leaf)
    assert len(generations(target)) == 1


async def test_group_of_the_directory_may_read_the_key(bundles: IssuedBundles, target: Path) -> None:
    another = 12345 if os.geteuid() == 0 else os.getgroups()[-1]  # only root may give away what is not its own
    make_for_group(target, another)
    await DirectoryLeafStore(target).write(await bundles.leaf(await bundles.bundle(1)))
    assert group(target / "tls.key") == group(target / "..data") == another


async def test_leaf_without_its_key_is_none(bundles: IssuedBundles, target: Path) -> None:
    bundle = await bundles.bundle(1)
    store = DirectoryLeafStore(target)
    await store.write(await bundles.leaf(bundle))
    (target / "..data" / "tls.key").write_bytes((await bundles.leaf(bundle)).key_pem)
    assert await store.read() is None
    (target / "..data" / "tls.key").unlink()
    assert await store.read() is None


async def test_bundle_and_leaf_may_share_a_directory(bundles: IssuedBundles, target: Path) -> None:
    publisher, store = DirectoryPublisher([target], bundles.trust), DirectoryLeafStore(target)
    first = await bundles.bundle(1)
    leaf = await bundles.leaf(first)
    await publisher.publish(first)
    await store.write(leaf)
    second = await bundles.bundle(2)
    await publisher.publish(second)
    assert (target / "bundle.note").read_bytes() == second.bundle.note
    assert await store.read() == leaf.certificate_pem
    assert mode(target / "tls.key") == 0o640
    assert (await publisher.publish(second)).outcome is PublishOutcome.UNCHANGED


async def test_failed_write_of_a_leaf_names_the_path(bundles: IssuedBundles, target: Path) -> None:
    leaf = await bundles.leaf(await bundles.bundle(1))
    put_a_file_in_the_way(target)
    with pytest.raises(PublishError, match=r"bundle: expected to write the leaf, found .*bundle"):
        await DirectoryLeafStore(target).write(leaf)
