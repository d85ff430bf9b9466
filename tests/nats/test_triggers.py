"""The two triggers without HTTP: SIGHUP, and a change of the directory."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asyncinotify import Inotify, Mask

import tidemark.nats
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, digests
from tests.harness.nats.reload_outcomes import ReloadOutcomes
from tests.harness.waiting import eventually
from tidemark.nats import Connection, reload_on_change, reload_on_sighup


def inotify_instances() -> int:
    """How many this process has."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor that lists them
            links.append(entry.readlink().name)
    return links.count("anon_inode:inotify")


@pytest.fixture
def no_sighup() -> Any:
    yield
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.usefixtures("no_sighup")
async def test_sighup_reloads_until_the_connection_is_closed(
    reporting: Connection, outcomes: ReloadOutcomes, output: InstalledOutput, first: ClusterCa
) -> None:
    reload_on_sighup(reporting)
    for number in range(1, 4):
        output.install(first.pem, *first.leaf())
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda number=number: len(outcomes.reloaded) == number, "the reload is reported")  # type: ignore[misc]
        assert digests(reporting) == output.digests()
    output.install(b"garbage", *first.leaf())
    os.kill(os.getpid(), signal.SIGHUP)
    await eventually(lambda: outcomes.failed, "the failure is reported")
    assert outcomes.failed[0].step == "read"
    await reporting.close()
    os.kill(os.getpid(), signal.SIGHUP)  # without a handler this would end the process
    await asyncio.sleep(0)
    assert (len(outcomes.failed), outcomes.errors) == (1, [])


async def test_change_of_the_directory_reloads(
    reporting: Connection, outcomes: ReloadOutcomes, output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    reload_on_change(reporting, every=0.01)
    for ca in (first, second, first):
        output.install(ca.pem + first.pem, *ca.leaf())
        await eventually(lambda: digests(reporting) == output.digests(), "the set is in use")
    output.install(b"garbage", *first.leaf())
    await eventually(lambda: outcomes.failed, "the failure is reported")
    output.install(first.pem, *first.leaf())
    await eventually(lambda: digests(reporting) == output.digests(), "the next good set is in use")
    assert {failed.step for failed in outcomes.failed} == {"read"}
    await reporting.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("tidemark")]
    assert outcomes.errors == []


@pytest.mark.parametrize("is_installed", [True, False], ids=["watchfiles", "no watchfiles"])
async def test_change_of_the_directory_reloads_with_and_without_watchfiles(  # noqa: PLR0917 # fixtures
    monkeypatch: pytest.MonkeyPatch,
    reporting: Connection,
    outcomes: ReloadOutcomes,
    output: InstalledOutput,
    first: ClusterCa,
    is_installed: bool,
) -> None:
    if not is_installed:
        monkeypatch.setitem(sys.modules, "watchfiles", None)
    before = inotify_instances()
    reload_on_change(reporting)
    if is_installed:
        await eventually(lambda: inotify_instances() > before, "the directory is watched")
    for _ in range(3):
        output.install(first.pem, *first.leaf())
        await eventually(lambda: digests(reporting) == output.digests(), "the set is in use")
    assert (inotify_instances() > before) is is_installed
    await reporting.close()
    await eventually(lambda: inotify_instances() == before, "the watch is closed")
    assert outcomes.errors == []


async def test_directory_made_anew_is_watched_anew(
    reporting: Connection, output: InstalledOutput, first: ClusterCa, tmp_path: Path
) -> None:
    reload_on_change(reporting)
    for number in range(2):
        output.path.rename(tmp_path / f"away-{number}")
        output.install(first.pem, *first.leaf())
        await eventually(lambda: digests(reporting) == output.digests(), "the set of the new directory is in use")


async def test_set_installed_before_the_watch_is_used(
    reporting: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    output.install(first.pem, *first.leaf())
    reload_on_change(reporting, every=3600)
    await eventually(lambda: digests(reporting) == output.digests(), "the set is in use")


async def test_failed_reload_of_the_watch_is_tried_again(  # noqa: PLR0917 # fixtures
    lone: NatsServers,
    reporting: Connection,
    outcomes: ReloadOutcomes,
    output: InstalledOutput,
    first: ClusterCa,
    stranger: ClusterCa,
) -> None:
    reload_on_change(reporting, every=0.01)
    output.install(first.pem, *stranger.leaf())
    await eventually(lambda: outcomes.failed, "the server refuses the set")
    lone.set_trust([first, stranger], first)
    await lone.reload()
    await eventually(lambda: digests(reporting) == output.digests(), "the set is in use once the server trusts it")


async def test_watch_checks_the_directory_at_each_given_change(
    reporting: Connection, outcomes: ReloadOutcomes, output: InstalledOutput, first: ClusterCa
) -> None:
    with Inotify() as inotify:
        inotify.add_watch(output.path, Mask.MOVED_TO)
        reload_on_change(reporting, changes=inotify)
        for number in range(1, 4):
            output.install(first.pem, *first.leaf())
            await eventually(lambda number=number: len(outcomes.reloaded) == number, "the set is in use")  # type: ignore[misc]
            assert digests(reporting) == output.digests()
        await reporting.close()
    assert outcomes.errors == []


async def test_error_of_the_watch_goes_to_error_cb(reporting: Connection, outcomes: ReloadOutcomes) -> None:
    async def broken() -> AsyncIterator[object]:
        yield None
        raise OSError("too many watches")

    reload_on_change(reporting, changes=broken())
    await eventually(lambda: outcomes.errors, "the error is reported")


async def test_sighup_without_a_connection_is_refused() -> None:
    with pytest.raises(TypeError, match="found none"):
        tidemark.nats.reload_on_sighup()
