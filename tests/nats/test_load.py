"""The playground's load, each application a process: what the publisher says it sent is what the consumer counts."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.nats.rig import SECONDS, Ca, Output, Servers, free_ports, until


class Application:
    """A publisher or a consumer, with its own output directory."""

    def __init__(self, name: str, home: Path, port: int) -> None:
        self.name = name
        self.output = Output(home / name)
        self.port = port
        self.state_file = home / f"{name}.json"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, servers: list[str], *more: str) -> None:
        command = [sys.executable, "-m", f"playground.{self.name}", "--directory", str(self.output.path)]
        command += ["--servers", ",".join(servers), "--reload-port", str(self.port), "--state", str(self.state_file)]
        self.process = await asyncio.create_subprocess_exec(*command, *more)

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.state_file.read_text())) if self.state_file.exists() else {}

    async def reload(self) -> None:
        ca, leaf = self.output.digests()
        body = {"sequence": 1, "ca_sha256": ca, "leaf_sha256": leaf, "directory": str(self.output.path)}
        async with aiohttp.request("POST", f"http://127.0.0.1:{self.port}/-/reload", json=body) as answer:
            assert (answer.status, await answer.json()) == (200, {"ca_sha256": ca, "leaf_sha256": leaf})

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), SECONDS)


@asynccontextmanager
async def applications(home: Path) -> AsyncIterator[tuple[Application, Application]]:
    ports = free_ports(2)
    made = Application("publisher", home, ports[0]), Application("consumer", home, ports[1])
    try:
        yield made
    finally:
        for one in made:
            if one.process is not None and one.process.returncode is None:
                one.process.kill()
                await one.process.wait()


async def test_every_message_is_counted_once_through_reloads(
    cluster: Servers, tmp_path: Path, first: Ca, second: Ca
) -> None:
    async with applications(tmp_path) as (publisher, consumer):
        for one in (publisher, consumer):
            one.output.install(first.pem, *first.leaf())
        await publisher.start(cluster.urls, "--rate", "1000")  # it waits for the consumer
        await consumer.start(cluster.urls, "--expect", str(publisher.state_file))

        def received() -> int:
            return min(consumer.state[kind]["received"] for kind in ("core", "jetstream")) if consumer.state else 0

        async def flows_on() -> None:
            before = received()
            await until(lambda: received() > before + 300, "it flows on")

        await flows_on()
        for turn in range(4):
            ca = (second, first)[turn % 2]
            cluster.set_trust([first, second], ca)
            await cluster.reload()
            for one in (publisher, consumer):
                one.output.install(ca.pem, *ca.leaf())
            await asyncio.gather(publisher.reload(), consumer.reload())
            await flows_on()
        assert await publisher.stop() == 0
        assert await consumer.stop() == 0
        sent, counted = publisher.state, consumer.state
    assert sent["finished"]
    assert counted["finished"]
    assert sent["run"] == counted["run"]
    assert (sent["reloads"], counted["reloads"]) == (4, 4)
    assert sent["jetstream"]["acked"] == sent["jetstream"]["published"]
    for kind in ("core", "jetstream"):
        assert counted[kind]["received"] == counted[kind]["highest"] == sent[kind]["published"]
        assert (counted[kind]["missing"], counted[kind]["duplicated"]) == (0, 0)
        assert counted[kind]["longest_gap_ms"] > 0
    assert (counted["jetstream"]["redelivered"], counted["jetstream"]["out_of_order"]) == (0, 0)


async def test_a_loss_is_counted(cluster: Servers, tmp_path: Path, first: Ca) -> None:
    """What the publisher says it sent decides, though the consumer cannot have seen the last of it."""
    async with applications(tmp_path) as (publisher, consumer):
        for one in (publisher, consumer):
            one.output.install(first.pem, *first.leaf())
        await consumer.start(cluster.urls, "--expect", str(publisher.state_file))
        await publisher.start(cluster.urls, "--rate", "200")
        await until(lambda: consumer.state.get("core", {}).get("received", 0) > 20, "it flows")
        assert await publisher.stop() == 0
        sent = publisher.state
        sent["core"]["published"] += 3
        publisher.state_file.write_text(json.dumps(sent))
        assert await consumer.stop() == 0
    assert consumer.state["core"]["missing"] == 3
    assert consumer.state["jetstream"]["missing"] == 0
