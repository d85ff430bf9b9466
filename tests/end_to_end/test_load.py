"""The playground's load, each application a process: what the publisher says it sent is what the consumer counts."""

import asyncio
import json
from pathlib import Path

from tests.harness.nats.cluster import ClusterCa, NatsServers
from tests.harness.nats.load_applications import applications
from tests.harness.waiting import eventually


async def test_every_message_is_counted_once_through_reloads(
    cluster: NatsServers, tmp_path: Path, first: ClusterCa, second: ClusterCa
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
            await eventually(lambda: received() > before + 300, "it flows on")

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


async def test_lost_messages_are_counted(cluster: NatsServers, tmp_path: Path, first: ClusterCa) -> None:
    """What the publisher says it sent decides, though the consumer cannot have seen the last of it."""
    async with applications(tmp_path) as (publisher, consumer):
        for one in (publisher, consumer):
            one.output.install(first.pem, *first.leaf())
        await consumer.start(cluster.urls, "--expect", str(publisher.state_file))
        await publisher.start(cluster.urls, "--rate", "200")
        await eventually(lambda: consumer.state.get("core", {}).get("received", 0) > 20, "it flows")
        assert await publisher.stop() == 0
        sent = publisher.state
        sent["core"]["published"] += 3
        publisher.state_file.write_text(json.dumps(sent))
        assert await consumer.stop() == 0
    assert consumer.state["core"]["missing"] == 3
    assert consumer.state["jetstream"]["missing"] == 0
