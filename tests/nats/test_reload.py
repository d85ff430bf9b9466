"""Changing the trust of connections in use: traffic continues."""

import asyncio
import gc
import time
from pathlib import Path

from nats.aio.msg import Msg

from playground.ledger import Ledger
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, connect_eventually, digests, slow_link
from tests.harness.nats.traffic import traffic
from tests.harness.waiting import eventually
from tidemark.nats import Connection
from tidemark.nats.switching.transport import Transport


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_twenty_reloads_under_load_lose_and_repeat_nothing(
    cluster: NatsServers, tmp_path: Path, first: ClusterCa, second: ClusterCa
) -> None:
    outputs = [InstalledOutput(tmp_path / "sender"), InstalledOutput(tmp_path / "receiver")]
    for output in outputs:
        output.install(first.pem, *first.leaf())
    async with (
        await connect_eventually(cluster.urls, outputs[0]) as sender,
        await connect_eventually(cluster.urls, outputs[1]) as receiver,
        traffic(sender, receiver) as flow,
    ):
        for turn in range(20):
            ca = (second, first)[turn % 2]
            cluster.set_trust([first, second], ca)  # what is served changes, and so must what is trusted
            await cluster.reload()
            for output in outputs:
                output.install(ca.pem, *ca.leaf())
            await asyncio.gather(sender.reload(), receiver.reload())
            assert [digests(sender), digests(receiver)] == [output.digests() for output in outputs]
            await flow.more()
    assert flow.faults() == {}


async def test_the_new_connection_is_to_the_same_server(
    cluster: NatsServers, output: InstalledOutput, first: ClusterCa
) -> None:
    async with await connect_eventually(cluster.urls, output) as connection:
        for _ in range(6):
            before = connection.connected_url
            output.install(first.pem, *first.leaf())
            await connection.reload()
            assert connection.connected_url == before


async def test_reload_moves_from_a_full_server_to_another_without_loss(
    cluster: NatsServers, output: InstalledOutput, tmp_path: Path, first: ClusterCa
) -> None:
    full = cluster.nodes[0]
    other = InstalledOutput(tmp_path / "other")
    other.install(first.pem, *first.leaf())
    async with (
        await connect_eventually([cluster.urls[1]], other) as sender,
        await connect_eventually([full.url], output) as receiver,
        traffic(sender, receiver) as flow,
    ):
        full.extra = "max_connections: 1"
        cluster.configure(full)
        await full.reload()
        try:
            output.install(first.pem, *first.leaf())
            await receiver.reload()
            assert receiver.connected_url is not None
            assert receiver.connected_url.geturl() != full.url
            await flow.more()
        finally:
            full.extra = ""
            cluster.configure(full)
            await full.reload()
    assert flow.faults() == {}


async def test_other_server_takes_over_after_its_subscriptions_propagated(
    tmp_path: Path, output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    servers = NatsServers(tmp_path / "pair", count=2, jetstream=False)
    left, right = servers.nodes
    servers.set_trust([first, second], first)
    async with slow_link(left.route, delay=0.1) as link:
        left.peers, right.peers = [], [link]  # so the left one hears of the right one's subscriptions late
        for node in servers.nodes:
            servers.configure(node)
            node.start()
        try:
            async with (
                await connect_eventually([left.url], output) as sender,
                await connect_eventually([left.url, right.url], output, dont_randomize=True) as receiver,
            ):
                await eventually(lambda: "Route connection created" in right.log, "they are a cluster")
                ledger, stop = Ledger(), asyncio.Event()

                async def count(message: Msg) -> None:
                    ledger.arrived(int(message.data), time.monotonic_ns())

                async def publish() -> int:
                    number = 0
                    while not stop.is_set():
                        number += 1
                        await sender.publish("core", b"%d" % number)
                        await asyncio.sleep(0.001)
                    return number

                await receiver.subscribe("core", cb=count)
                await receiver.flush()
                publishing = asyncio.create_task(publish())
                left.extra = "max_connections: 2"
                servers.configure(left)
                await left.reload()
                output.install(first.pem, *first.leaf())
                await receiver.reload()
                assert receiver.connected_url is not None
                assert receiver.connected_url.geturl() == right.url
                received = ledger.received
                await eventually(lambda: ledger.received > received + 100, "it flows by the other server")
                stop.set()
                published = await publishing
                await eventually(lambda: ledger.highest == published, "the last has come")
                assert (ledger.missing(published), ledger.duplicated) == (0, 0)
        finally:
            servers.kill()


async def test_reloading_the_same_set_keeps_the_connection(lone: NatsServers, connection: Connection) -> None:
    before = await lone.nodes[0].connections()
    await connection.reload()
    assert await lone.nodes[0].connections() == before


async def test_simultaneous_reloads_make_one_connection(
    lone: NatsServers, connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    before = await lone.nodes[0].connections()
    output.install(first.pem, *first.leaf())
    await asyncio.gather(*(connection.reload() for _ in range(50)))
    assert await lone.nodes[0].connections() == before + 1
    assert digests(connection) == output.digests()


async def test_reloads_requested_during_one_wait_for_one_more(
    lone: NatsServers, connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    before = await lone.nodes[0].connections()
    output.install(first.pem, *first.leaf())
    early = asyncio.create_task(connection.reload())
    while await lone.nodes[0].connections() == before and not early.done():
        pass  # until it has read the directory
    output.install(first.pem, *first.leaf())
    await asyncio.gather(*(connection.reload() for _ in range(50)))
    assert early.done()
    assert await lone.nodes[0].connections() == before + 2
    assert digests(connection) == output.digests()


async def test_published_messages_keep_their_order_across_reloads(
    lone: NatsServers, connection: Connection, output: InstalledOutput, tmp_path: Path, first: ClusterCa
) -> None:
    elsewhere = InstalledOutput(tmp_path / "elsewhere")
    elsewhere.install(first.pem, *first.leaf())
    ledger, stop, number = Ledger(), asyncio.Event(), 0

    async def count(message: Msg) -> None:
        ledger.arrived(int(message.data), time.monotonic_ns())

    async def publish() -> None:
        nonlocal number
        while not stop.is_set():
            for _ in range(20):
                number += 1
                await connection.publish("ordered", b"%01000d" % number)
            await asyncio.sleep(0)

    async with await connect_eventually(lone.urls, elsewhere) as receiver:
        await receiver.subscribe("ordered", cb=count)
        await receiver.flush()
        publishing = asyncio.create_task(publish())
        for _ in range(10):
            output.install(first.pem, *first.leaf())
            await connection.reload()
        stop.set()
        await publishing
        await connection.flush()
        await eventually(lambda: ledger.highest == number, "the last has come")
    assert (ledger.missing(number), ledger.duplicated, ledger.out_of_order) == (0, 0, 0)


async def test_a_request_in_flight_gets_its_answer(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    asked: asyncio.Queue[Msg] = asyncio.Queue()
    await connection.subscribe("slow", cb=asked.put)
    request = asyncio.create_task(connection.request("slow", b"question", timeout=20))
    message = await asked.get()
    output.install(first.pem, *first.leaf())
    await connection.reload()
    await message.respond(b"answer")  # the connection that the question came by is closed
    assert (await request).data == b"answer"


async def test_slow_callback_is_never_run_twice_at_once_across_a_reload(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    seen: list[int] = []
    may_go_on, busy = asyncio.Event(), 0

    async def slowly(message: Msg) -> None:
        nonlocal busy
        busy += 1
        assert busy == 1
        seen.append(int(message.data))
        await may_go_on.wait()
        busy -= 1

    await connection.subscribe("work", cb=slowly)
    for number in range(10):
        await connection.publish("work", b"%d" % number)
    await connection.flush()
    await eventually(lambda: seen, "the first is being worked on")
    output.install(first.pem, *first.leaf())
    await connection.reload()
    for number in range(10, 20):
        await connection.publish("work", b"%d" % number)
    await connection.flush()
    assert seen == [0]
    may_go_on.set()
    await eventually(lambda: len(seen) == 20, "all are worked on")
    assert seen == list(range(20))


async def test_waiting_fetch_gets_a_message_stored_after_the_reload(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    jetstream = connection.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    puller = await jetstream.pull_subscribe("s", durable="d")
    waiting = asyncio.create_task(puller.fetch(1, timeout=20))
    while (await puller.consumer_info()).num_waiting == 0:
        pass  # until the server has the request
    for number in range(3):
        output.install(first.pem, *first.leaf())
        await connection.reload()
        assert not waiting.done()
        await jetstream.publish("s", b"%d" % number)
        (message,) = await asyncio.wait_for(waiting, 5)
        assert message.data == b"%d" % number
        await message.ack_sync()
        waiting = asyncio.create_task(puller.fetch(1, timeout=20))
        await asyncio.sleep(0)
    waiting.cancel()
    assert (await puller.consumer_info()).num_ack_pending == 0


async def test_a_subscription_can_be_ended_after_a_reload(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    subscription = await connection.subscribe("ended")
    kept = await connection.subscribe("ended")
    output.install(first.pem, *first.leaf())
    await connection.reload()
    await connection.publish("ended", b"1")
    assert (await subscription.next_msg(timeout=5)).data == b"1"
    await subscription.unsubscribe()
    await connection.publish("ended", b"2")
    assert [(await kept.next_msg(timeout=5)).data for _ in range(2)] == [b"1", b"2"]
    assert subscription.pending_msgs == 0


async def test_subscription_limit_counts_across_a_reload(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    subscription = await connection.subscribe("limited")
    await subscription.unsubscribe(limit=3)
    await connection.publish("limited", b"1")
    await connection.flush()
    output.install(first.pem, *first.leaf())
    await connection.reload()
    for number in range(2, 6):
        await connection.publish("limited", b"%d" % number)
    assert [message.data async for message in subscription.messages] == [b"1", b"2", b"3"]


async def test_reloads_leave_no_task_file_or_transport_behind(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    await connection.subscribe("any", cb=_nothing)
    await connection.flush()
    tasks, files = len(asyncio.all_tasks()), descriptors()
    gc.collect()
    gc.disable()  # wires hold buffers of which it knows nothing: they must go without it
    try:
        for _ in range(10):
            output.install(first.pem, *first.leaf())
            await connection.reload()
        assert len(asyncio.all_tasks()) == tasks
        assert descriptors() == files
        assert len([one for one in gc.get_objects() if isinstance(one, Transport)]) == 1
    finally:
        gc.enable()


async def _nothing(message: Msg) -> None:
    pass
