"""The examples work across changes of trust, each with its own way to notice them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from playground.layout import free_ports
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers
from tests.harness.paths import CHECKOUT
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection

TURNS = 3


class Example:
    """A running example, and the lines that it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


@asynccontextmanager
async def example(name: str, servers: NatsServers, output: InstalledOutput, *more: str) -> AsyncIterator[Example]:
    command = [sys.executable, str(CHECKOUT / "examples" / name), "--servers", ",".join(servers.urls)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}  # in place of an installed wheel
    process = await asyncio.create_subprocess_exec(
        *command, "--directory", str(output.path), *more, stdout=asyncio.subprocess.PIPE, env=environment
    )
    running = Example(process)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading


@pytest.fixture
def theirs(tmp_path: Path, first: ClusterCa, second: ClusterCa) -> InstalledOutput:
    """The example's own output directory."""
    made = InstalledOutput(tmp_path / "theirs")
    made.install(first.pem + second.pem, *first.leaf())
    return made


@pytest.fixture
def turn(theirs: InstalledOutput, first: ClusterCa, second: ClusterCa) -> Callable[[], None]:
    """Installs the next set."""
    issuers = [second, first] * TURNS
    return lambda: theirs.install(first.pem + second.pem, *issuers.pop(0).leaf())


async def test_worker_takes_every_order_across_rotations(
    lone: NatsServers, connection: Connection, theirs: InstalledOutput, turn: Callable[[], None]
) -> None:
    jetstream = connection.jetstream()
    await jetstream.add_stream(name="ORDERS", subjects=["orders.*"])
    node = lone.nodes[0]
    async with example("worker.py", lone, theirs) as worker:
        await eventually(lambda: "ready" in worker.lines, "it is up")
        for number in range(TURNS):
            before = await node.connections()
            turn()
            while await node.connections() == before:
                pass  # until it has seen and taken the new set
            await jetstream.publish("orders.created", b"%d" % number)
            await eventually(lambda number=number: f"order {number}" in worker.lines, "it is taken")  # type: ignore[misc, arg-type]
        assert await worker.stop() == 0
    assert worker.lines == ["ready", *(f"order {number}" for number in range(TURNS))]
    assert (await jetstream.consumer_info("ORDERS", "workers")).num_ack_pending == 0


async def test_service_answers_across_rotations_by_sighup(
    lone: NatsServers, connection: Connection, theirs: InstalledOutput, turn: Callable[[], None]
) -> None:
    async with example("service.py", lone, theirs) as service:
        await eventually(lambda: "ready" in service.lines, "it is up")
        for number in range(TURNS):
            turn()
            service.process.send_signal(signal.SIGHUP)
            await eventually(lambda number=number: len(service.lines) == number + 2, "the service reports the reload")  # type: ignore[misc]
            assert f"leaf {theirs.digests()[1][:8]}" in service.lines[-1]
            assert (await connection.request("prices.get", b"pear", timeout=PATIENCE)).data == b"45"
            assert (await connection.request("prices.get", b"plum", timeout=PATIENCE)).data == b""
        assert await service.stop() == 0


async def test_web_service_stores_orders_across_rotations_by_endpoint(
    lone: NatsServers, connection: Connection, theirs: InstalledOutput, turn: Callable[[], None]
) -> None:
    await connection.jetstream().add_stream(name="ORDERS", subjects=["orders.*"])
    port = free_ports(1)[0]
    async with (
        example("web.py", lone, theirs, "--port", str(port)) as web,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        await eventually(lambda: any("Running on" in line for line in web.lines), "it is up")
        for number in range(TURNS):
            turn()
            ca, leaf = theirs.digests()
            async with client.post("/-/reload", json={"sequence": number, "ca_sha256": ca}) as answer:
                assert (answer.status, await answer.json()) == (200, {"ca_sha256": ca, "leaf_sha256": leaf})
            for _ in range(2):  # a client that repeats itself
                async with client.post("/orders", data=b"x", headers={"Idempotency-Key": str(number)}) as answer:
                    assert (answer.status, await answer.json()) == (201, {"sequence": number + 1})
        async with client.get("/metrics") as answer:
            shown = await answer.text()
        sample = f'ca_rotation_application_reloads_total{{connection="web",outcome="reloaded"}} {TURNS}.0'
        assert sample in shown
        assert await web.stop() == 0
