"""What makes a swap hard, each on a real cluster: the promises hold all the same."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import nats.errors
import nats.js.errors
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue

from playground.ledger import Ledger
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsNode, NatsServers, connect_eventually, digests
from tests.harness.nats.restart import all_there, restart
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection, JetStream, ReloadFailed

STREAM = api.StreamConfig(name="STREAM", subjects=["s.>"], num_replicas=3, storage=api.StorageType.MEMORY)


@asynccontextmanager
async def stream(jetstream: JetStream) -> AsyncIterator[None]:
    await jetstream.add_stream(STREAM)
    yield
    await deleted(jetstream, "STREAM")


async def deleted(jetstream: JetStream, name: str) -> None:
    """Asked again where the request was lost, as it is while the cluster elects another leader."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await jetstream.delete_stream(name)
        except nats.js.errors.NotFoundError:
            return
        except nats.errors.TimeoutError:
            assert asyncio.get_running_loop().time() < deadline
        else:
            return


@pytest.fixture
async def member(cluster: NatsServers, output: InstalledOutput) -> AsyncIterator[Connection]:
    """Connected to the cluster."""
    async with await connect_eventually(cluster.urls, output, reconnect_time_wait=0.05) as made:
        yield made


@pytest.fixture
async def peer(cluster: NatsServers, tmp_path: Path, first: ClusterCa, second: ClusterCa) -> AsyncIterator[Connection]:
    """Another application's connection, with an output directory of its own."""
    other = InstalledOutput(tmp_path / "peer")
    other.install(first.pem + second.pem, *first.leaf())
    async with await connect_eventually(cluster.urls, other, reconnect_time_wait=0.05) as made:
        yield made


@pytest.fixture
def away(cluster: NatsServers, peer: Connection) -> NatsNode:
    """A server that the peer is not connected to."""
    return next(node for node in cluster.nodes if node is not node_of(peer, cluster))


class Turns:
    """Installs new sets, alternating between the CAs, and reloads."""

    def __init__(self, connection: Connection, output: InstalledOutput, *cas: ClusterCa) -> None:
        self._connection, self._output, self._cas = connection, output, cas
        self._turn = 0

    def install(self) -> None:
        self._turn += 1
        ca = self._cas[self._turn % len(self._cas)]
        self._output.install(b"".join(one.pem for one in self._cas), *ca.leaf())

    async def take(self) -> None:
        self.install()
        await self._connection.reload()
        assert digests(self._connection) == self._output.digests()


@pytest.fixture
def turns(member: Connection, output: InstalledOutput, first: ClusterCa, second: ClusterCa) -> Turns:
    return Turns(member, output, first, second)


def node_of(connection: Connection, cluster: NatsServers) -> NatsNode:
    assert connection.connected_url is not None
    return next(node for node in cluster.nodes if node.port == connection.connected_url.port)


async def test_slow_handlers_process_each_message_once_across_reloads(
    member: Connection, peer: Connection, turns: Turns
) -> None:
    ledgers = {queue: Ledger() for queue in ("slow", "")}
    busy: dict[str, int] = dict.fromkeys(ledgers, 0)

    async def work(queue: str, message: Msg) -> None:
        busy[queue] += 1
        assert busy[queue] == 1
        await asyncio.sleep(0.01)
        ledgers[queue].arrived(int(message.data), time.monotonic_ns())
        busy[queue] -= 1

    for queue in ledgers:

        async def callback(message: Msg, queue: str = queue) -> None:
            await work(queue, message)

        await member.subscribe("work", queue=queue, cb=callback)
    await member.flush()
    await peer.flush()
    for turn in range(4):
        for number in range(turn * 50 + 1, turn * 50 + 51):
            await peer.publish("work", b"%d" % number)
        await peer.flush()
        await turns.take()  # far from all have been worked on
    assert all(ledger.received < 200 for ledger in ledgers.values())
    await eventually(lambda: all(ledger.received == 200 for ledger in ledgers.values()), "all are worked on")
    assert all((ledger.missing(200), ledger.duplicated) == (0, 0) for ledger in ledgers.values())


@pytest.mark.parametrize("batch", [1, 50])
async def test_fetches_that_wait_are_answered_across_reloads(
    member: Connection, peer: Connection, turns: Turns, batch: int
) -> None:
    async with stream(peer.jetstream()):
        pullers = [await member.jetstream().pull_subscribe("s.x", durable=f"d{n}", stream="STREAM") for n in range(5)]
        for round_ in range(3):
            fetches = [asyncio.create_task(puller.fetch(batch, timeout=PATIENCE)) for puller in pullers]
            for puller in pullers:
                while (await puller.consumer_info()).num_waiting == 0:
                    pass  # until the server has the request
            await turns.take()
            assert not any(fetch.done() for fetch in fetches)
            await peer.jetstream().publish("s.x", b"%d" % round_)
            done = await asyncio.wait_for(asyncio.gather(*(first_of(fetch) for fetch in fetches)), PATIENCE / 2)
            assert [message.data for message in done] == [b"%d" % round_] * len(pullers)
            for message in done:
                await message.ack_sync()
        for puller in pullers:
            info = await puller.consumer_info()
            assert info.delivered is not None
            assert (info.num_ack_pending, info.num_redelivered, info.delivered.consumer_seq) == (0, 0, 3)


async def first_of(fetch: "asyncio.Task[list[Msg]]") -> Msg:
    return (await fetch)[0]


@pytest.mark.parametrize("batch", [1, 10])
async def test_fetch_from_a_deleted_consumer_fails_at_once(member: Connection, turns: Turns, batch: int) -> None:
    """As nats-py's does, and not only after its time-out; it must be the server's own 503 that ends it."""
    async with stream(member.jetstream()):
        puller = await member.jetstream().pull_subscribe("s.x", durable="d", stream="STREAM")
    await until_nobody_serves(puller)
    for _ in range(2):
        with pytest.raises(nats.js.errors.ServiceUnavailableError):
            await puller.fetch(batch, timeout=PATIENCE)
        await turns.take()


async def until_nobody_serves(puller: JetStreamContext.PullSubscription) -> None:
    """Until the consumer's own server has heard that its stream was deleted: before that it may take a last request."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await puller.fetch(1, timeout=0.5)
        except nats.js.errors.ServiceUnavailableError:
            return
        except (nats.errors.TimeoutError, nats.js.errors.APIError):
            assert asyncio.get_running_loop().time() < deadline, "expected a deleted consumer to be gone, it answers"


@pytest.mark.parametrize("batch", [1, 10])
async def test_heartbeats_of_a_fetch_continue_across_a_reload(member: Connection, turns: Turns, batch: int) -> None:
    """They say that the server is there and has nothing; through a swap they go on to say so."""
    async with stream(member.jetstream()):
        puller = await member.jetstream().pull_subscribe("s.x", durable="d", stream="STREAM")
        fetch = asyncio.create_task(puller.fetch(batch, timeout=1, heartbeat=0.2))
        await turns.take()
        with pytest.raises(nats.js.errors.FetchTimeoutError):
            await fetch


async def test_a_fetch_outlives_its_server(output: InstalledOutput, peer: Connection, cluster: NatsServers) -> None:
    """The pull request died with the consumer's leader; nats-py waits for it in vain until its time-out."""
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
            await eventually(lambda: connection.is_connected, "it is connected again")
            await eventually_stored(peer, b"after")
            assert (await asyncio.wait_for(first_of(fetch), PATIENCE)).data == b"after"
        await all_there(cluster, peer)


async def eventually_stored(connection: Connection, payload: bytes) -> None:
    """Through the election of another leader, and maybe of another server to talk to."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    headers = {"Nats-Msg-Id": "one"}
    while True:
        try:
            await connection.jetstream(timeout=2).publish("s.x", payload, headers=headers)
        except (nats.errors.Error, nats.js.errors.Error):
            assert asyncio.get_running_loop().time() < deadline
        else:
            return


async def test_requests_in_flight_are_answered_across_reloads(
    member: Connection, peer: Connection, turns: Turns
) -> None:
    asked: list[Msg] = []

    async def keep(message: Msg) -> None:
        asked.append(message)

    await peer.subscribe("slow", queue="service", cb=keep)
    await peer.flush()
    for round_ in range(3):
        requests = [asyncio.create_task(member.request("slow", b"%d" % n, timeout=PATIENCE)) for n in range(100)]
        await eventually(lambda: len(asked) == 100, "all questions are there")
        for message in asked[:50]:
            await message.respond(message.data)  # these answers come in during the swap, or before
        await turns.take()
        for message in asked[50:]:
            await message.respond(message.data)
        answers = await asyncio.gather(*requests)
        assert [answer.data for answer in answers] == [b"%d" % n for n in range(100)], round_
        asked.clear()


async def test_requests_are_answered_while_the_responder_reloads(
    member: Connection, peer: Connection, turns: Turns
) -> None:
    async def slowly(message: Msg) -> None:
        await asyncio.sleep(0.001)
        await message.respond(message.data)

    await member.subscribe("echo", queue="service", cb=slowly)
    await member.flush()
    await until_heard(peer, "echo")
    for _ in range(5):
        requests = [asyncio.create_task(peer.request("echo", b"%d" % n, timeout=PATIENCE)) for n in range(100)]
        await turns.take()
        assert [answer.data for answer in await asyncio.gather(*requests)] == [b"%d" % n for n in range(100)]


async def until_heard(connection: Connection, subject: str) -> None:
    """Until the connection's server knows that someone answers, maybe elsewhere in the cluster."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await connection.request(subject, b"0", timeout=PATIENCE)
        except nats.errors.NoRespondersError:
            assert asyncio.get_running_loop().time() < deadline
        else:
            return


async def test_outstanding_acknowledgements_arrive_across_reloads(member: Connection, turns: Turns) -> None:
    jetstream = member.jetstream()
    async with stream(jetstream):
        acks = []
        for round_ in range(5):
            for number in range(200):
                headers = {"Nats-Msg-Id": f"{round_}.{number}"}
                acks.append(await jetstream.publish_async("s.x", b"%d" % number, headers=headers))
            assert jetstream.publish_async_pending() > 0
            await turns.take()
        answers = await asyncio.wait_for(asyncio.gather(*acks), PATIENCE)
        assert [answer.seq for answer in answers] == list(range(1, 1001))
        assert not any(answer.duplicate for answer in answers)


async def test_bursts_during_reloads_lose_and_repeat_nothing(
    member: Connection, peer: Connection, turns: Turns
) -> None:
    core, stored = Ledger(), Ledger()

    async def count(message: Msg) -> None:
        core.arrived(int(message.data[:6]), time.monotonic_ns())

    async def fetch(puller: JetStreamContext.PullSubscription) -> None:
        while stored.received < 3000:
            for message in await puller.fetch(500, timeout=PATIENCE):
                redelivered = message.metadata.num_delivered > 1
                stored.arrived(int(message.data[:6]), time.monotonic_ns(), redelivered=redelivered)
                await message.ack()

    await member.subscribe("burst", queue="workers", cb=count)
    await member.flush()
    async with stream(peer.jetstream()):
        puller = await member.jetstream().pull_subscribe("s.burst", durable="d", stream="STREAM")
        fetching = asyncio.create_task(fetch(puller))
        acks = []
        for burst in range(3):
            turns.install()
            reloading = asyncio.create_task(member.reload())
            for number in range(burst * 1000 + 1, burst * 1000 + 1001):
                await peer.publish("burst", b"%06d" % number + bytes(500))
                acks.append(await peer.jetstream().publish_async("s.burst", b"%06d" % number + bytes(500)))
            await reloading
        await asyncio.wait_for(asyncio.gather(*acks), PATIENCE)
        await asyncio.wait_for(fetching, PATIENCE)
        await eventually(lambda: core.received == 3000, "all have come")
        assert (core.missing(3000), core.duplicated) == (0, 0)
        assert (stored.missing(3000), stored.duplicated, stored.redelivered, stored.out_of_order) == (0, 0, 0, 0)


async def test_reload_during_a_reconnect_loses_nothing(
    cluster: NatsServers, away: NatsNode, peer: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    """Told in the very moment in which the server is lost."""
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
        await eventually(lambda: seen == [b"stored"], "the ordered consumer goes on")
        assert [message.data for message in await fetched(puller)] == [b"stored"]


async def fetched(
    puller: JetStreamContext.PullSubscription,
    batch: int = 10,
    timeout: float = 1,  # noqa: ASYNC109 # of each fetch
) -> list[Msg]:
    """As an application fetches: again where a consumer has no leader at the moment (503)."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await puller.fetch(batch, timeout=timeout)
        except (nats.errors.TimeoutError, nats.js.errors.APIError):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)


async def test_servers_restarting_during_reloads_lose_no_stored_message(
    cluster: NatsServers, member: Connection, peer: Connection, turns: Turns
) -> None:
    """Each server once, in the middle of a swap. What is stored comes; ordered, it comes once and in order."""
    ledgers = {kind: Ledger() for kind in ("pulled", "pushed", "ordered", "watched")}
    published, put, stop = 0, 0, asyncio.Event()

    def arrived(kind: str, data: bytes | None) -> None:
        assert data is not None
        ledgers[kind].arrived(int(data), time.monotonic_ns())

    async def pushed(message: Msg) -> None:
        arrived("pushed", message.data)

    async def ordered(message: Msg) -> None:
        arrived("ordered", message.data)

    async def pull(puller: JetStreamContext.PullSubscription) -> None:
        while True:
            for message in await fetched(puller):
                arrived("pulled", message.data)
                await message.ack()

    async def watch(watcher: KeyValue.KeyWatcher) -> None:
        async for entry in watcher:
            if entry is not None:
                arrived("watched", entry.value)

    async def publish(jetstream: JetStream) -> None:
        nonlocal published
        while not stop.is_set():
            await jetstream.publish("s.x", b"%d" % (published + 1))
            published += 1

    async def put_keys(bucket: KeyValue) -> None:
        nonlocal put
        while not stop.is_set():
            await bucket.put(f"k{put + 1}", b"%d" % (put + 1))
            put += 1

    def flowed(wanted: tuple[int, int]) -> bool:
        return published >= wanted[0] and put >= wanted[1]

    def complete() -> bool:
        return all(not one.missing(put if kind == "watched" else published) for kind, one in ledgers.items())

    sending = peer.jetstream(timeout=PATIENCE)
    receiving = member.jetstream()  # an ordered consumer that begins anew asks again after so long, if a server died
    bucket = await sending.create_key_value(bucket="B", replicas=3, storage=api.StorageType.MEMORY)
    async with stream(sending):
        waiting = api.ConsumerConfig(ack_wait=2)
        puller = await receiving.pull_subscribe("s.x", durable="d", stream="STREAM", config=replace(waiting))
        await receiving.subscribe("s.x", durable="p", stream="STREAM", cb=pushed, config=replace(waiting))
        await receiving.subscribe("s.x", stream="STREAM", cb=ordered, ordered_consumer=True, idle_heartbeat=0.5)
        watcher = await (await receiving.key_value("B")).watchall()
        tasks = [pull(puller), watch(watcher)]
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(task) for task in tasks]
            foreground = [group.create_task(task) for task in (publish(sending), put_keys(bucket))]
            for node in cluster.nodes:
                turns.install()
                reloading = asyncio.create_task(member.reload())
                await restart(node)
                try:
                    await reloading
                except ReloadFailed:
                    assert node_of(member, cluster)  # no server took it in time: it goes on as it was
                await turns.take()
                wanted = published + 20, put + 20
                await eventually(partial(flowed, wanted), "all flows as it did")
                await all_there(cluster, peer)
            stop.set()
            await asyncio.wait(foreground)
            await eventually(complete, "all that was stored has come")
            for task in background:
                task.cancel()
    await sending.delete_key_value("B")
    for kind in ("ordered", "watched"):
        assert (ledgers[kind].duplicated, ledgers[kind].out_of_order) == (0, 0), kind
