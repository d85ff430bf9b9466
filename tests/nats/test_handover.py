"""Reloads on a real cluster while every kind of traffic is under way: nothing is lost, nothing is repeated."""

import asyncio
import time

import nats.errors
import nats.js.errors
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from playground.ledger import Ledger
from tests.harness.nats.set_installer import SetInstaller
from tests.harness.nats.streams import first_of, stream
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection


async def test_slow_handlers_process_each_message_once_across_reloads(
    member: Connection, peer: Connection, installer: SetInstaller
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
        await installer.install_and_reload()  # most of them are still unprocessed
    assert all(ledger.received < 200 for ledger in ledgers.values())
    await eventually(lambda: all(ledger.received == 200 for ledger in ledgers.values()), "all are processed")
    assert all((ledger.missing(200), ledger.duplicated) == (0, 0) for ledger in ledgers.values())


@pytest.mark.parametrize("batch", [1, 50])
async def test_fetches_that_wait_are_answered_across_reloads(
    member: Connection, peer: Connection, installer: SetInstaller, batch: int
) -> None:
    async with stream(peer.jetstream()):
        pullers = [await member.jetstream().pull_subscribe("s.x", durable=f"d{n}", stream="STREAM") for n in range(5)]
        for round_ in range(3):
            fetches = [asyncio.create_task(puller.fetch(batch, timeout=PATIENCE)) for puller in pullers]
            for puller in pullers:
                while (await puller.consumer_info()).num_waiting == 0:
                    pass  # until the server has the request
            await installer.install_and_reload()
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


@pytest.mark.parametrize("batch", [1, 10])
async def test_fetch_from_a_deleted_consumer_fails_at_once(
    member: Connection, installer: SetInstaller, batch: int
) -> None:
    """The server's own 503 ends the fetch, as with nats-py, not the time-out."""
    async with stream(member.jetstream()):
        puller = await member.jetstream().pull_subscribe("s.x", durable="d", stream="STREAM")
    await until_consumer_is_gone(puller)
    for _ in range(2):
        with pytest.raises(nats.js.errors.ServiceUnavailableError):
            await puller.fetch(batch, timeout=PATIENCE)
        await installer.install_and_reload()


async def until_consumer_is_gone(puller: JetStreamContext.PullSubscription) -> None:
    """Wait until the consumer's own server knows that the stream is deleted; before that it may accept a request."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await puller.fetch(1, timeout=0.5)
        except nats.js.errors.ServiceUnavailableError:
            return
        except (nats.errors.TimeoutError, nats.js.errors.APIError):
            assert asyncio.get_running_loop().time() < deadline, "expected a deleted consumer to be gone, it answers"


@pytest.mark.parametrize("batch", [1, 10])
async def test_heartbeats_of_a_fetch_continue_across_a_reload(
    member: Connection, installer: SetInstaller, batch: int
) -> None:
    """Without heartbeats nats-py would end the fetch; they must arrive on the new transport too."""
    async with stream(member.jetstream()):
        puller = await member.jetstream().pull_subscribe("s.x", durable="d", stream="STREAM")
        fetch = asyncio.create_task(puller.fetch(batch, timeout=1, heartbeat=0.2))
        await installer.install_and_reload()
        with pytest.raises(nats.js.errors.FetchTimeoutError):
            await fetch


async def test_requests_in_flight_are_answered_across_reloads(
    member: Connection, peer: Connection, installer: SetInstaller
) -> None:
    asked: list[Msg] = []

    async def record(message: Msg) -> None:
        asked.append(message)

    await peer.subscribe("slow", queue="service", cb=record)
    await peer.flush()
    for round_ in range(3):
        requests = [asyncio.create_task(member.request("slow", b"%d" % n, timeout=PATIENCE)) for n in range(100)]
        await eventually(lambda: len(asked) == 100, "all requests have arrived")
        for message in asked[:50]:
            await message.respond(message.data)  # these answers arrive during the hand-over, or before
        await installer.install_and_reload()
        for message in asked[50:]:
            await message.respond(message.data)
        answers = await asyncio.gather(*requests)
        assert [answer.data for answer in answers] == [b"%d" % n for n in range(100)], round_
        asked.clear()


async def test_requests_are_answered_while_the_responder_reloads(
    member: Connection, peer: Connection, installer: SetInstaller
) -> None:
    async def slowly(message: Msg) -> None:
        await asyncio.sleep(0.001)
        await message.respond(message.data)

    await member.subscribe("echo", queue="service", cb=slowly)
    await member.flush()
    await until_answered(peer, "echo")
    for _ in range(5):
        requests = [asyncio.create_task(peer.request("echo", b"%d" % n, timeout=PATIENCE)) for n in range(100)]
        await installer.install_and_reload()
        assert [answer.data for answer in await asyncio.gather(*requests)] == [b"%d" % n for n in range(100)]


async def until_answered(connection: Connection, subject: str) -> None:
    """Wait until the connection's server knows of the responder, which may be on another server."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await connection.request(subject, b"0", timeout=PATIENCE)
        except nats.errors.NoRespondersError:
            assert asyncio.get_running_loop().time() < deadline
        else:
            return


async def test_outstanding_acknowledgements_arrive_across_reloads(member: Connection, installer: SetInstaller) -> None:
    jetstream = member.jetstream()
    async with stream(jetstream):
        acks = []
        for round_ in range(5):
            for number in range(200):
                headers = {"Nats-Msg-Id": f"{round_}.{number}"}
                acks.append(await jetstream.publish_async("s.x", b"%d" % number, headers=headers))
            assert jetstream.publish_async_pending() > 0
            await installer.install_and_reload()
        answers = await asyncio.wait_for(asyncio.gather(*acks), PATIENCE)
        assert [answer.seq for answer in answers] == list(range(1, 1001))
        assert not any(answer.duplicate for answer in answers)


async def test_bursts_during_reloads_lose_and_repeat_nothing(
    member: Connection, peer: Connection, installer: SetInstaller
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
            installer.install()
            reloading = asyncio.create_task(member.reload())
            for number in range(burst * 1000 + 1, burst * 1000 + 1001):
                await peer.publish("burst", b"%06d" % number + bytes(500))
                acks.append(await peer.jetstream().publish_async("s.burst", b"%06d" % number + bytes(500)))
            await reloading
        await asyncio.wait_for(asyncio.gather(*acks), PATIENCE)
        await asyncio.wait_for(fetching, PATIENCE)
        await eventually(lambda: core.received == 3000, "all have arrived")
        assert (core.missing(3000), core.duplicated) == (0, 0)
        assert (stored.missing(3000), stored.duplicated, stored.redelivered, stored.out_of_order) == (0, 0, 0, 0)
