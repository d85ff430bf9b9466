"""Ways to be told of a new set, and to hear what came of it: SIGHUP, the directory, events, metrics."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from asyncinotify import Inotify, Mask
from cryptography import x509
from prometheus_client import CollectorRegistry, generate_latest

import tidemark.nats
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, connect_eventually, digests
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection, Reloaded, ReloadFailed, reload_on_change, reload_on_sighup


class Heard:
    """What the events said."""

    def __init__(self) -> None:
        self.reloaded: list[Reloaded] = []
        self.failed: list[ReloadFailed] = []
        self.errors: list[Exception] = []

    @property
    def options(self) -> dict[str, Any]:
        return {
            "on_reload": _append(self.reloaded),
            "on_reload_failed": _append(self.failed),
            "error_cb": _append(self.errors),
        }


def _append(told: list[Any]) -> Callable[[Any], Awaitable[None]]:
    async def tell(what: object) -> None:
        told.append(what)

    return tell


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def told(lone: NatsServers, output: InstalledOutput, heard: Heard) -> AsyncIterator[Connection]:
    async with await connect_eventually(lone.urls, output, **heard.options) as connection:
        yield connection


@pytest.fixture
def no_sighup() -> Any:
    yield
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.usefixtures("no_sighup")
async def test_sighup_reloads_until_the_connection_is_closed(
    told: Connection, heard: Heard, output: InstalledOutput, first: ClusterCa
) -> None:
    reload_on_sighup(told)
    for number in range(1, 4):
        output.install(first.pem, *first.leaf())
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda number=number: len(heard.reloaded) == number, "it is told")  # type: ignore[misc]
        assert digests(told) == output.digests()
    output.install(b"garbage", *first.leaf())
    os.kill(os.getpid(), signal.SIGHUP)
    await eventually(lambda: heard.failed, "the failure is told")
    assert heard.failed[0].step == "read"
    await told.close()
    os.kill(os.getpid(), signal.SIGHUP)  # which would end the process if nobody took it any more
    await asyncio.sleep(0)
    assert (len(heard.failed), heard.errors) == (1, [])


async def test_change_of_the_directory_reloads(
    told: Connection, heard: Heard, output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    reload_on_change(told, every=0.01)
    for ca in (first, second, first):
        output.install(ca.pem + first.pem, *ca.leaf())
        await eventually(lambda: digests(told) == output.digests(), "it is taken")
    output.install(b"garbage", *first.leaf())
    await eventually(lambda: heard.failed, "the failure is told")
    output.install(first.pem, *first.leaf())
    await eventually(lambda: digests(told) == output.digests(), "the next good one is taken")
    assert {failed.step for failed in heard.failed} == {"read"}
    await told.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("tidemark")]
    assert heard.errors == []


async def test_set_installed_before_the_watch_is_used(
    told: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    output.install(first.pem, *first.leaf())
    reload_on_change(told, every=3600)
    await eventually(lambda: digests(told) == output.digests(), "it is taken")


async def test_failed_reload_of_the_watch_is_tried_again(  # noqa: PLR0917 # fixtures
    lone: NatsServers, told: Connection, heard: Heard, output: InstalledOutput, first: ClusterCa, stranger: ClusterCa
) -> None:
    reload_on_change(told, every=0.01)
    output.install(first.pem, *stranger.leaf())
    await eventually(lambda: heard.failed, "the server refuses it")
    lone.set_trust([first, stranger], first)
    await lone.reload()
    await eventually(lambda: digests(told) == output.digests(), "it is taken once the server does")


async def test_watch_checks_the_directory_at_each_given_change(
    told: Connection, heard: Heard, output: InstalledOutput, first: ClusterCa
) -> None:
    with Inotify() as inotify:
        inotify.add_watch(output.path, Mask.MOVED_TO)
        reload_on_change(told, changes=inotify)
        for number in range(1, 4):
            output.install(first.pem, *first.leaf())
            await eventually(lambda number=number: len(heard.reloaded) == number, "it is taken")  # type: ignore[misc]
            assert digests(told) == output.digests()
        await told.close()
    assert heard.errors == []


async def test_error_of_the_watch_goes_to_error_cb(told: Connection, heard: Heard) -> None:
    async def broken() -> AsyncIterator[object]:
        yield None
        raise OSError("too many watches")

    reload_on_change(told, changes=broken())
    await eventually(lambda: heard.errors, "it is told")


async def test_callbacks_get_each_reload_and_each_failure_once(
    lone: NatsServers, told: Connection, heard: Heard, output: InstalledOutput, first: ClusterCa
) -> None:
    await told.reload()  # the same set: nothing to tell
    output.install(first.pem, *first.leaf())
    await asyncio.gather(*(told.reload() for _ in range(10)))
    (reloaded,) = heard.reloaded  # one move, told once
    assert (reloaded.ca_sha256, reloaded.leaf_sha256) == output.digests()
    assert reloaded.server == f"127.0.0.1:{lone.nodes[0].port}"
    assert reloaded.seconds > 0
    output.install(b"garbage", *first.leaf())
    failures = await asyncio.gather(*(told.reload() for _ in range(10)), return_exceptions=True)
    assert set(map(id, failures)) == set(map(id, heard.failed))
    assert heard.errors == []


async def test_callback_that_raises_fails_no_reload(
    lone: NatsServers, output: InstalledOutput, heard: Heard, first: ClusterCa
) -> None:
    async def fail(reloaded: Reloaded) -> None:
        raise LookupError

    async with await connect_eventually(lone.urls, output, **(heard.options | {"on_reload": fail})) as connection:
        output.install(first.pem, *first.leaf())
        await connection.reload()
        assert digests(connection) == output.digests()
    assert [type(error) for error in heard.errors] == [LookupError]


async def test_callback_may_reload(lone: NatsServers, output: InstalledOutput, first: ClusterCa) -> None:
    again: list[object] = []

    async def once_more(reloaded: Reloaded) -> None:
        again.append(reloaded)
        await connection.reload()  # nothing has changed since

    async with await connect_eventually(lone.urls, output, on_reload=once_more) as connection:
        output.install(first.pem, *first.leaf())
        await asyncio.wait_for(connection.reload(), PATIENCE)
    assert len(again) == 1


async def test_callback_may_close_the_connection(
    lone: NatsServers, output: InstalledOutput, heard: Heard, first: ClusterCa
) -> None:
    async def enough(reloaded: Reloaded) -> None:
        await connection.close()

    connection = await connect_eventually(lone.urls, output, **(heard.options | {"on_reload": enough}))
    output.install(first.pem, *first.leaf())
    await asyncio.wait_for(connection.reload(), PATIENCE)
    assert connection.is_closed
    assert heard.errors == []


async def test_failure_without_a_callback_is_logged(
    connection: Connection, output: InstalledOutput, first: ClusterCa, caplog: pytest.LogCaptureFixture
) -> None:
    output.install(b"garbage", *first.leaf())
    with pytest.raises(ReloadFailed):
        await connection.reload()
    assert "reload failed at step 'read'" in caplog.text


async def test_metrics_count_reloads_by_connection(
    lone: NatsServers, output: InstalledOutput, first: ClusterCa
) -> None:
    registry = CollectorRegistry()

    def value(metric: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"ca_rotation_application_{metric}", labels)

    async with (
        await connect_eventually(lone.urls, output, registry=registry, name="orders") as orders,
        await connect_eventually(lone.urls, output, registry=registry, name="bills") as bills,
    ):
        assert value("reloads_total", connection="orders", outcome="reloaded") == 0
        output.install(first.pem, *first.leaf())
        await orders.reload()
        output.install(b"garbage", *first.leaf())
        for connection in (orders, bills):
            with pytest.raises(ReloadFailed):
                await connection.reload()
    assert value("reloads_total", connection="orders", outcome="reloaded") == 1
    assert value("reload_duration_seconds_count", connection="orders") == 1
    assert value("reloads_total", connection="orders", outcome="read") == 1
    assert value("reloads_total", connection="bills", outcome="read") == 1
    assert value("reloads_total", connection="bills", outcome="reloaded") == 0
    expiry = value("leaf_expiry_timestamp_seconds", connection="orders")
    leaf = x509.load_pem_x509_certificate((output.path / "tls.crt").read_bytes())
    assert expiry is not None
    assert abs(expiry - leaf.not_valid_after_utc.timestamp()) < 60
    assert b"orders" in generate_latest(registry)


def test_importing_the_library_imports_nothing_optional() -> None:
    optional = ["prometheus_client", "watchfiles", "tidemark.nats.metrics", "tidemark.nats.endpoint"]
    # aiohttp is nats-py's own option, for websockets: it is imported where it is installed, so it must not be.
    script = (
        f"import sys; sys.modules['aiohttp'] = None; import tidemark.nats; print(set(sys.modules) & set({optional}))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


async def test_sighup_without_a_connection_is_refused() -> None:
    with pytest.raises(TypeError, match="found none"):
        tidemark.nats.reload_on_sighup()
