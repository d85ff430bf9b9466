"""Servers that crash and restart, with and without a reload: stored messages arrive all the same."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue

from playground.ledger import Ledger
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsNode, NatsServers, connect_eventually, digests
from tests.harness.nats.restart import all_there, restart
from tests.harness.nats.set_installer import SetInstaller, node_of
from tests.harness.nats.streams import fetched, first_of, stream
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection, JetStream, ReloadFailed


async def test_a_fetch_outlives_its_server(output: InstalledOutput, peer: Connection, cluster: NatsServers) -> None:
    """The pull request is lost with the consumer's leader; nats-py would wait until its time-out."""
    async with stream(peer.jetstream()):
        consumer = await peer.jetstream().add_consumer("STREAM", durable_name="d", ack_policy="explicit")
        assert consumer.cluster is not None
        leader = next(node for node in cluster.nodes if node.home.name == consumer.cluster.leader)
        async with await connect_eventually([leader.url], output, reconnect_time_wait=0.05) as connection:
            puller = await connection.jetstream().pull_subscribe_bind("d", "STREAM")
            fetch = asyncio.create_task(fetched(puller, 1, timeout=600))
            while (await puller.consumer_info()).num_waiting == 0:
                pass  # until the server has the request
            await restart(leader)
            await eventually(lambda: connection.is_connected, "the connection is back")
            await store_eventually(peer, b"after")
            assert (await asyncio.wait_for(first_of(fetch), PATIENCE)).data == b"after"
        await all_there(cluster, peer)


async def store_eventually(connection: Connection, payload: bytes) -> None:
    """Store one message, while the stream elects a leader or the connection looks for a server."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    headers = {"Nats-Msg-Id": "one"}
    while True:
        try:
            await connection.jetstream(timeout=2).publish("s.x", payload, headers=headers)
        except (nats.errors.Error, nats.js.errors.Error):
            assert asyncio.get_running_loop().time() < deadline
        else:
            return


async def test_reload_during_a_reconnect_loses_nothing(
    cluster: NatsServers, away: NatsNode, peer: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    """The reload is requested in the moment in which the server is lost."""
    lost = asyncio.Event()

    async def note() -> None:
        lost.set()

    async with (
        await connect_eventually([away.url], output, disconnected_cb=note) as connection,
        stream(peer.jetstream()),
    ):
        seen: list[bytes] = []

        async def see(message: Msg) -> None:
            seen.append(message.data)

        jetstream = connection.jetstream()
        await jetstream.subscribe("s.x", stream="STREAM", cb=see, ordered_consumer=True, idle_heartbeat=0.5)
        puller = await jetstream.pull_subscribe("s.x", durable="d", stream="STREAM")
        plain = await connection.subscribe("plain")
        await connection.flush()
        output.install(first.pem, *first.leaf())
        away.kill()
        await lost.wait()
        assert connection.is_reconnecting
        await connection.publish("plain", b"waited")
        await connection.reload()
        assert digests(connection) == output.digests()
        assert (await plain.next_msg(timeout=PATIENCE)).data == b"waited"
        away.start()
        await connection.publish("plain", b"core")
        assert (await plain.next_msg(timeout=PATIENCE)).data == b"core"
        await peer.jetstream(timeout=PATIENCE).publish("s.x", b"stored")
        await eventually(lambda: seen == [b"stored"], "the ordered consumer delivers again")
        assert [message.data for message in await fetched(puller)] == [b"stored"]


@dataclass
class StoredTraffic:
    """Messages and keys that one connection stores and another receives in four ways."""

    published: int = 0
    put: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ledgers: dict[str, Ledger] = field(
        default_factory=lambda: {kind: Ledger() for kind in ("pulled", "pushed", "ordered", "watched")}
    )

    def arrived(self, kind: str, data: bytes | None) -> None:
        assert data is not None
        self.ledgers[kind].arrived(int(data), time.monotonic_ns())

    async def receive(self, jetstream: JetStream) -> list[Coroutine[Any, Any, None]]:
        """Subscribe in every way; what is returned must run meanwhile."""

        async def pushed(message: Msg) -> None:
            self.arrived("pushed", message.data)

        async def ordered(message: Msg) -> None:
            self.arrived("ordered", message.data)

        waiting = api.ConsumerConfig(ack_wait=2)
        puller = await jetstream.pull_subscribe("s.x", durable="d", stream="STREAM", config=replace(waiting))
        await jetstream.subscribe("s.x", durable="p", stream="STREAM", cb=pushed, config=replace(waiting))
        await jetstream.subscribe("s.x", stream="STREAM", cb=ordered, ordered_consumer=True, idle_heartbeat=0.5)
        watcher = await (await jetstream.key_value("B")).watchall()
        return [self._pull(puller), self._watch(watcher)]

    async def _pull(self, puller: JetStreamContext.PullSubscription) -> None:
        while True:
            for message in await fetched(puller):
                self.arrived("pulled", message.data)
                await message.ack()

    async def _watch(self, watcher: KeyValue.KeyWatcher) -> None:
        async for entry in watcher:
            if entry is not None:
                self.arrived("watched", entry.value)

    async def publish(self, jetstream: JetStream) -> None:
        while not self.stop.is_set():
            await jetstream.publish("s.x", b"%d" % (self.published + 1))
            self.published += 1

    async def put_keys(self, bucket: KeyValue) -> None:
        while not self.stop.is_set():
            await bucket.put(f"k{self.put + 1}", b"%d" % (self.put + 1))
            self.put += 1

    async def more(self) -> None:
        """Wait until twenty more of each kind are stored."""
        published, put = self.published + 20, self.put + 20
        await eventually(lambda: self.published >= published and self.put >= put, "everything flows again")

    def complete(self) -> bool:
        return all(
            not ledger.missing(self.put if kind == "watched" else self.published)
            for kind, ledger in self.ledgers.items()
        )


async def test_servers_restarting_during_reloads_lose_no_stored_message(
    cluster: NatsServers, member: Connection, peer: Connection, installer: SetInstaller
) -> None:
    """Each server restarts once, during a reload. What is stored arrives; what is ordered arrives once, in order."""
    traffic = StoredTraffic()
    sending = peer.jetstream(timeout=PATIENCE)
    receiving = member.jetstream()  # its time-out is also that of an ordered consumer's reset while a server is away
    bucket = await sending.create_key_value(bucket="B", replicas=3, storage=api.StorageType.MEMORY)
    async with stream(sending):
        tasks = await traffic.receive(receiving)
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(task) for task in tasks]
            foreground = [group.create_task(task) for task in (traffic.publish(sending), traffic.put_keys(bucket))]
            for node in cluster.nodes:
                installer.install()
                reloading = asyncio.create_task(member.reload())
                await restart(node)
                try:
                    await reloading
                except ReloadFailed:
                    assert node_of(member, cluster)  # no server accepted it in time: the old connection is in use
                await installer.install_and_reload()
                await traffic.more()
                await all_there(cluster, peer)
            traffic.stop.set()
            await asyncio.wait(foreground)
            await eventually(traffic.complete, "everything that was stored has arrived")
            for task in background:
                task.cancel()
    await sending.delete_key_value("B")
    for kind in ("ordered", "watched"):
        assert (traffic.ledgers[kind].duplicated, traffic.ledgers[kind].out_of_order) == (0, 0), kind
