"""What a connection reports about its reloads: to callbacks, to the log and to metrics."""

import asyncio

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry, generate_latest

from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, connect_eventually, digests
from tests.harness.nats.reload_outcomes import ReloadOutcomes
from tests.harness.waiting import PATIENCE
from tidemark.nats import Connection, Reloaded, ReloadFailed


async def test_callbacks_get_each_reload_and_each_failure_once(
    lone: NatsServers, reporting: Connection, outcomes: ReloadOutcomes, output: InstalledOutput, first: ClusterCa
) -> None:
    await reporting.reload()  # the same set: nothing to report
    output.install(first.pem, *first.leaf())
    await asyncio.gather(*(reporting.reload() for _ in range(10)))
    (reloaded,) = outcomes.reloaded  # one move, reported once
    assert (reloaded.ca_sha256, reloaded.leaf_sha256) == output.digests()
    assert reloaded.server == f"127.0.0.1:{lone.nodes[0].port}"
    assert reloaded.seconds > 0
    output.install(b"garbage", *first.leaf())
    failures = await asyncio.gather(*(reporting.reload() for _ in range(10)), return_exceptions=True)
    assert set(map(id, failures)) == set(map(id, outcomes.failed))
    assert outcomes.errors == []


async def test_callback_that_raises_fails_no_reload(
    lone: NatsServers, output: InstalledOutput, outcomes: ReloadOutcomes, first: ClusterCa
) -> None:
    async def fail(reloaded: Reloaded) -> None:
        raise LookupError

    async with await connect_eventually(lone.urls, output, **(outcomes.options | {"on_reload": fail})) as connection:
        output.install(first.pem, *first.leaf())
        await connection.reload()
        assert digests(connection) == output.digests()
    assert [type(error) for error in outcomes.errors] == [LookupError]


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
    lone: NatsServers, output: InstalledOutput, outcomes: ReloadOutcomes, first: ClusterCa
) -> None:
    async def enough(reloaded: Reloaded) -> None:
        await connection.close()

    connection = await connect_eventually(lone.urls, output, **(outcomes.options | {"on_reload": enough}))
    output.install(first.pem, *first.leaf())
    await asyncio.wait_for(connection.reload(), PATIENCE)
    assert connection.is_closed
    assert outcomes.errors == []


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
