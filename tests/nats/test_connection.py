"""nats-py's surface, as an application knows it, and what it does not promise but must hold here: an honest flush."""

import asyncio
import subprocess
import sys
import time

import nats.errors
import nats.js.errors
import pytest
from nats.aio.msg import Msg
from nats.js import api

import tidemark.nats
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, connect_eventually
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection


def test_importing_the_contract_imports_no_network_library() -> None:
    script = (
        "import sys, tidemark; print([name for name in ('nats', 'aiohttp', 'tidemark.nats') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_importing_the_library_imports_nothing_optional() -> None:
    optional = ["prometheus_client", "watchfiles", "tidemark.nats.metrics", "tidemark.nats.endpoint"]
    # aiohttp is nats-py's own option, for websockets: it is imported where it is installed, so it must not be.
    script = (
        f"import sys; sys.modules['aiohttp'] = None; import tidemark.nats; print(set(sys.modules) & set({optional}))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


async def test_flush_proves_that_the_server_has_every_message(
    lone: NatsServers, output: InstalledOutput, connection: Connection
) -> None:
    async with await connect_eventually(lone.urls, output) as other:
        subscription = await other.subscribe("large")
        await other.flush()
        for number in range(1, 21):
            await connection.publish("large", bytes(1_000_000))
            await connection.flush()
            await other.flush()  # all that the server had for it by then has been read
            assert subscription.delivered == number


async def test_connection_works_after_a_flush_timed_out(connection: Connection) -> None:
    with pytest.raises(nats.errors.FlushTimeoutError):
        await connection.flush(timeout=0)
    await connection.flush()
    subscription = await connection.subscribe("after")
    await connection.publish("after", b"all is well")
    assert (await subscription.next_msg(timeout=5)).data == b"all is well"


async def test_request_gets_its_answer_or_its_error(connection: Connection) -> None:
    async def echo(message: Msg) -> None:
        await message.respond(message.data.upper())

    async def silent(message: Msg) -> None:
        pass

    await connection.subscribe("echo", cb=echo)
    await connection.subscribe("silent", cb=silent)
    assert (await connection.request("echo", b"hello")).data == b"HELLO"
    answers = await asyncio.gather(*(connection.request("echo", b"%d" % n, timeout=5) for n in range(100)))
    assert [answer.data for answer in answers] == [b"%d" % n for n in range(100)]
    with pytest.raises(nats.errors.NoRespondersError):
        await connection.request("unused", timeout=5)
    with pytest.raises(nats.errors.TimeoutError):
        await connection.request("silent", timeout=0.05)


async def test_a_request_ends_when_the_connection_is_closed(connection: Connection) -> None:
    asked = asyncio.Event()

    async def silent(message: Msg) -> None:
        asked.set()

    await connection.subscribe("silent", cb=silent)
    request = asyncio.create_task(connection.request("silent", timeout=60))
    await asked.wait()
    await connection.close()
    with pytest.raises(nats.errors.ConnectionClosedError):
        await request


async def test_headers_queue_groups_and_iteration(connection: Connection) -> None:
    members = [await connection.subscribe("shared", queue="group") for _ in range(2)]
    alone = await connection.subscribe("shared")
    assert [subscription.queue for subscription in (*members, alone)] == ["group", "group", ""]
    for number in range(50):
        await connection.publish("shared", b"%d" % number, headers={"Number": str(number)})
    seen = []
    async for message in alone.messages:
        assert message.headers == {"Number": message.data.decode()}
        seen.append(int(message.data))
        if len(seen) == 50:
            break
    assert seen == list(range(50))
    await connection.flush()
    assert sum(member.pending_msgs for member in members) == 50


@pytest.mark.parametrize("subject", ["", "two words", "line\r\nPUB x 0\r\n", "a..b", "a.>.b"])
async def test_invalid_subject_is_refused(connection: Connection, subject: str) -> None:
    with pytest.raises(nats.errors.BadSubjectError):
        await connection.subscribe(subject)


async def test_error_in_a_callback_goes_to_error_cb_and_ends_nothing(
    lone: NatsServers, output: InstalledOutput
) -> None:
    reported: list[Exception] = []
    seen: list[bytes] = []

    async def report(error: Exception) -> None:
        reported.append(error)

    async def fail(message: Msg) -> None:
        seen.append(message.data)
        raise LookupError(message.data)

    async with await connect_eventually(lone.urls, output, error_cb=report) as connection:
        await connection.subscribe("fails", cb=fail)
        for number in range(3):
            await connection.publish("fails", b"%d" % number)
        await eventually(lambda: len(reported) == 3, "all errors are reported")
    assert seen == [b"0", b"1", b"2"]
    assert {type(error) for error in reported} == {LookupError}


async def test_drain_processes_received_and_sends_waiting_messages(
    lone: NatsServers, output: InstalledOutput, connection: Connection
) -> None:
    closed = asyncio.Event()

    async def note() -> None:
        closed.set()

    draining = await connect_eventually(lone.urls, output, closed_cb=note)
    done = await connection.subscribe("done")
    await connection.flush()

    async def work(message: Msg) -> None:
        await asyncio.sleep(0.001)
        await message.respond(b"done")

    await draining.subscribe("work", cb=work)
    await draining.flush()
    for _ in range(50):
        await connection.publish("work", reply="done")
    await connection.flush()
    await draining.drain()
    assert closed.is_set()
    assert draining.is_closed
    for _ in range(50):
        await done.next_msg(timeout=5)
    with pytest.raises(nats.errors.ConnectionClosedError):
        await draining.publish("work")
    with pytest.raises(nats.errors.ConnectionClosedError):
        await draining.subscribe("work")
    await draining.close()


async def test_drain_does_not_wait_for_unfetched_messages(lone: NatsServers, output: InstalledOutput) -> None:
    connection = await connect_eventually(lone.urls, output)
    jetstream = connection.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    puller = await jetstream.pull_subscribe("s", durable="d")
    fetch = asyncio.create_task(puller.fetch(10, timeout=20))
    while (await puller.consumer_info()).num_waiting == 0:
        pass  # until the server has the request
    fetch.cancel()
    await asyncio.wait([fetch])
    for _ in range(10):
        await jetstream.publish("s")
    await eventually(lambda: puller.pending_msgs > 0, "some are delivered but not fetched")
    before = time.monotonic()
    await connection.drain()
    assert time.monotonic() - before < 10  # nats-py waits 30 s for them


async def test_close_ends_iterators_and_waiting_calls(connection: Connection) -> None:
    iterated, waited = await connection.subscribe("any"), await connection.subscribe("any")

    async def iterate() -> int:
        return len([message async for message in iterated.messages])

    iterating = asyncio.create_task(iterate())
    waiting = asyncio.create_task(waited.next_msg(timeout=60))
    await connection.flush()
    await connection.close()
    assert await iterating == 0
    with pytest.raises(nats.errors.ConnectionClosedError):
        await waiting
    assert not connection.is_connected


async def test_repeated_publish_is_stored_once(connection: Connection) -> None:
    jetstream = connection.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    headers = {api.Header.MSG_ID.value: "mine"}
    first = await jetstream.publish("s", b"same", headers=headers)
    again = await jetstream.publish("s", b"same", headers=headers)
    other = await jetstream.publish("s", b"same")
    assert (again.seq, again.duplicate) == (first.seq, True)
    assert (other.seq, other.duplicate) == (first.seq + 1, None)
    stored = await jetstream.get_msg("S", other.seq)
    assert stored.headers is not None
    assert stored.headers[api.Header.MSG_ID.value]


async def test_unacknowledged_publish_is_repeated_and_stored_once(
    lone: NatsServers, output: InstalledOutput, connection: Connection
) -> None:
    jetstream = connection.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    node = lone.nodes[0]
    node.kill()
    publishing = [asyncio.create_task(jetstream.publish("s", b"%d" % n, timeout=20)) for n in range(20)]
    await asyncio.sleep(0)
    node.start()
    acks = await asyncio.gather(*publishing)
    assert len({ack.seq for ack in acks}) == 20
    assert (await jetstream.stream_info("S")).state.messages == 20


async def test_flow_control_of_an_ordered_consumer_is_answered(connection: Connection) -> None:
    """More messages than a server sends without an answer to flow control; at rest no task polls for one."""
    jetstream = connection.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    count, payload = 3000, bytes(16 * 1024)
    for acknowledged in [await jetstream.publish_async("s", payload) for _ in range(count)]:
        await acknowledged
    ordered = await jetstream.subscribe("s", stream="S", ordered_consumer=True, idle_heartbeat=60)
    await eventually(lambda: ordered.pending_msgs > 10, "the server has sent some")
    seen = 0
    async with asyncio.timeout(PATIENCE):
        async for message in ordered.messages:
            seen += 1
            assert message.metadata.sequence.stream == seen
            if seen == count:
                break
    await eventually(
        lambda: not any("flow" in task.get_name() for task in asyncio.all_tasks()), "the last answer is given"
    )
    assert not any("check_flow_control" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def test_a_subject_without_a_stream_is_an_error(connection: Connection) -> None:
    with pytest.raises(nats.js.errors.NoStreamResponseError):
        await connection.jetstream().publish("nowhere", timeout=0.3)


async def test_servers_of_the_cluster_are_discovered(
    cluster: NatsServers, output: InstalledOutput, first: ClusterCa
) -> None:
    everyone = {f"127.0.0.1:{node.port}" for node in cluster.nodes}
    async with await connect_eventually(cluster.urls[:1], output) as connection:

        def found() -> set[str]:
            return {url.netloc for url in connection._switch.current.servers}

        await eventually(lambda: found() == everyone, "the server has named the others")
        output.install(first.pem, *first.leaf())
        await connection.reload()
        assert connection.connected_url is not None
        assert found() == everyone


async def test_connect_names_the_fault_of_the_directory(lone: NatsServers, tmp_path: object) -> None:
    with pytest.raises(tidemark.nats.SetUnreadable, match="nowhere"):
        await tidemark.nats.connect(lone.urls, directory=f"{tmp_path}/nowhere")
