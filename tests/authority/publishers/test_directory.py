"""The directory publisher, on real directories, watched and read as an agent would."""

import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from authority.publishers.directory import DirectoryPublisher
from authority.publishers.interface import PublishOutcome
from authority.support import projected_directory
from tests.harness.contract.issued_bundles import IssuedBundles
from tidemark.bundle import Bundle, Cause


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "mount" / "bundle"


def shown(target: Path) -> Bundle:
    return Bundle((target / "ca.crt").read_bytes(), (target / "bundle.note").read_bytes())


def names(target: Path) -> set[str]:
    return {path.name for path in target.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def generations(target: Path) -> list[str]:
    return sorted(path.name for path in target.iterdir() if path.name.startswith("..2"))


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A file where a directory would have to be: also root cannot write there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    yield
    path.unlink()


async def test_directory_has_the_layout_of_the_kubelets(bundles: IssuedBundles, target: Path) -> None:
    publisher = DirectoryPublisher([target], bundles.trust)
    bundle = await bundles.bundle(1)
    assert (await publisher.publish(bundle)).outcome is PublishOutcome.WRITTEN
    assert shown(target) == bundle.bundle
    assert (target / "ca.crt").readlink() == Path("..data/ca.crt")
    (generation,) = generations(target)
    assert (target / "..data").readlink() == Path(generation)
    assert names(target) == {"..data", generation, "ca.crt", "bundle.note"}
    assert mode(target / "ca.crt") == 0o644
    assert mode(target / generation) == 0o755
    (seen,) = await publisher.read()
    assert (seen.target, seen.bundle) == (str(target), bundle.bundle)


async def test_unchanged_bundle_is_not_written(bundles: IssuedBundles, target: Path) -> None:
    bundle = await bundles.bundle(1)
    await DirectoryPublisher([target], bundles.trust).publish(bundle)
    before = generations(target)
    assert (await DirectoryPublisher([target], bundles.trust).publish(bundle)).outcome is PublishOutcome.UNCHANGED
    assert generations(target) == before


async def test_next_bundle_replaces_the_last(bundles: IssuedBundles, target: Path) -> None:
    publisher = DirectoryPublisher([target], bundles.trust)
    await publisher.publish(await bundles.bundle(1))
    (before,) = generations(target)
    second = await bundles.bundle(2)
    assert (await publisher.publish(second)).outcome is PublishOutcome.WRITTEN
    assert shown(target) == second.bundle
    (after,) = generations(target)
    assert after != before


async def test_higher_sequence_is_not_written_over(bundles: IssuedBundles, target: Path) -> None:
    publisher = DirectoryPublisher([target], bundles.trust)
    old, new = await bundles.bundle(1), await bundles.bundle(2)
    await publisher.publish(new)
    assert (await publisher.publish(old)).outcome is PublishOutcome.NEWER
    assert shown(target) == new.bundle
    # Its signed note counts, even where the file beside it was damaged.
    (target / "ca.crt").write_bytes(b"damaged")
    assert (await publisher.publish(old)).outcome is PublishOutcome.NEWER
    assert (await publisher.publish(new)).outcome is PublishOutcome.WRITTEN
    assert shown(target) == new.bundle


async def test_lock_held_by_a_paused_writer_is_named(bundles: IssuedBundles, target: Path, tmp_path: Path) -> None:
    publisher = DirectoryPublisher([target, tmp_path / "other"], bundles.trust)
    await publisher.publish(await bundles.bundle(1))
    with projected_directory.locked(target):
        brought = await publisher.publish(await bundles.bundle(2))
    assert brought.written == (str(tmp_path / "other"),)
    assert "found another writer that has held its lock for 3 s; is a process paused?" in brought.failed[0]
    assert (await publisher.publish(await bundles.bundle(2))).written == (str(target),)


async def test_statement_of_another_key_is_written_over(bundles: IssuedBundles, target: Path, tmp_path: Path) -> None:
    stranger = await IssuedBundles.create(tmp_path / "stranger", bundles.now)
    await DirectoryPublisher([target], stranger.trust).publish(await stranger.bundle(9))
    bundle = await bundles.bundle(1)
    assert (await DirectoryPublisher([target], bundles.trust).publish(bundle)).outcome is PublishOutcome.WRITTEN
    assert shown(target) == bundle.bundle


async def test_second_text_of_one_sequence_is_an_error(bundles: IssuedBundles, target: Path) -> None:
    publisher = DirectoryPublisher([target], bundles.trust)
    bundle, other = await bundles.bundle(1), await bundles.bundle(1, Cause.FORCED)
    await publisher.publish(bundle)
    (failure,) = (await publisher.publish(other)).failed
    assert re.search("expected sequence 1 to be the statement .*two authorities have written it", failure)
    assert shown(target) == bundle.bundle


@pytest.mark.parametrize("damage", ["edited", "unlinked", "replaced", "garbage", "no data", "one file less"])
async def test_damaged_directory_is_restored(bundles: IssuedBundles, target: Path, damage: str) -> None:
    publisher = DirectoryPublisher([target], bundles.trust)
    bundle = await bundles.bundle(1)
    await publisher.publish(bundle)
    match damage:
        case "edited":
            (target / "ca.crt").write_bytes(bundle.bundle.ca + b"\n")
        case "unlinked":
            (target / "bundle.note").unlink()
        case "replaced":  # as an editor saves
            (target / "ca.crt").unlink()
            (target / "ca.crt").write_bytes(bundle.bundle.ca)
        case "garbage":
            (target / "bundle.note").write_bytes(b"\xff")
        case "no data":
            (target / "..data").unlink()
        case "one file less":
            (target / "..data" / "ca.crt").unlink()
    assert (await publisher.publish(bundle)).outcome is PublishOutcome.WRITTEN
    assert shown(target) == bundle.bundle
    assert (target / "ca.crt").is_symlink()
    assert len(generations(target)) == 1
    assert (await publisher.publish(bundle)).outcome is PublishOutcome.UNCHANGED


async def test_remains_of_a_crash_are_removed(bundles: IssuedBundles, target: Path) -> None:
    publisher = DirectoryPublisher([target], bundles.trust)
    await publisher.publish(await bundles.bundle(1))
    (target / "..2026_01_02_15_04_05.0badca").mkdir()
    (target / "..data_tmp").symlink_to("..2026_01_02_15_04_05.0badca")
    second = await bundles.bundle(2)
    await publisher.publish(second)
    assert shown(target) == second.bundle
    assert len(generations(target)) == 1
    assert not (target / "..data_tmp").is_symlink()


async def test_each_failed_target_is_named_and_others_are_written(bundles: IssuedBundles, tmp_path: Path) -> None:
    good, bad, worse, other = (tmp_path / name for name in ("good", "bad", "worse", "other"))
    publisher = DirectoryPublisher([bad, good, worse, other], bundles.trust)
    bundle = await bundles.bundle(1)
    with read_only(bad), read_only(worse):
        brought = await publisher.publish(bundle)
        assert brought.written == (str(good), str(other))
        assert [str(bad) in brought.failed[0], str(worse) in brought.failed[1]] == [True, True]
        assert shown(good) == shown(other) == bundle.bundle
    assert (await publisher.publish(bundle)).outcome is PublishOutcome.WRITTEN
    assert shown(bad) == bundle.bundle


async def test_higher_sequence_is_reported_though_others_fail(bundles: IssuedBundles, tmp_path: Path) -> None:
    fresh, ahead, bad = (tmp_path / name for name in ("fresh", "ahead", "bad"))
    newer = await bundles.bundle(9)
    await DirectoryPublisher([ahead], bundles.trust).publish(newer)
    publisher = DirectoryPublisher([fresh, bad, ahead], bundles.trust)
    with read_only(bad):
        brought = await publisher.publish(await bundles.bundle(2))
        assert (brought.written, brought.newer) == ((str(fresh),), (str(ahead),))
        assert brought.outcome is PublishOutcome.NEWER
        (failure,) = brought.failed
        assert str(bad) in failure
    (bad / "..data" / "ca.crt").mkdir(parents=True)
    looks = {one.target: one for one in await publisher.read()}
    assert looks[str(ahead)].bundle == newer.bundle
    assert looks[str(bad)].bundle is None
    assert looks[str(bad)].error.startswith(f"{bad}: expected to read ca.crt, found ")


async def test_no_reader_sees_files_of_two_bundles(bundles: IssuedBundles, target: Path) -> None:
    """A reader that resolves ``..data`` once, as agents do, finds a note that is about the ``ca.crt`` beside it."""
    publisher = DirectoryPublisher([target], bundles.trust)
    published = [await bundles.bundle(number) for number in range(1, 21)]
    whole = {bundle.bundle for bundle in published}
    await publisher.publish(published[0])
    seen: set[Bundle] = set()
    torn: list[Bundle] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            generation = target / (target / "..data").readlink()
            try:
                bundle = Bundle((generation / "ca.crt").read_bytes(), (generation / "bundle.note").read_bytes())
            except FileNotFoundError:
                continue  # overtaken: look again
            (seen.add if bundle in whole else torn.append)(bundle)

    reader = threading.Thread(target=read)
    reader.start()
    for bundle in published:
        await publisher.publish(bundle)
    done.set()
    reader.join()
    assert not torn
    assert len(seen) > 1


async def test_unreadable_target_is_an_error(bundles: IssuedBundles, target: Path) -> None:
    bundle = await bundles.bundle(1)
    publisher = DirectoryPublisher([target], bundles.trust)
    await publisher.publish(bundle)
    (target / "..data" / "ca.crt").unlink()
    (target / "..data" / "ca.crt").mkdir()
    (seen,) = await publisher.read()
    assert seen.bundle is None
    assert re.search(r"expected to read ca\.crt, found .*Is a directory", seen.error)
