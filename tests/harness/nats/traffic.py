"""Numbered messages from one connection to another, of every kind that must survive a reload, counted exactly."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue
from nats.js.object_store import ObjectStore

from playground.ledger import Ledger
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection, Subscription

KINDS = ("group", "plain", "iterated", "stored", "pushed", "shared", "ordered", "watched")
CORE = KINDS[:3]
UNORDERED = (*CORE, "shared")
_BUCKET = "TRAFFIC"
_EVERY = 4  # a key is put for every so many messages: putting waits for its acknowledgement


@dataclass
class Traffic:
    """Publishes at a steady rate; every kind of subscription has a ledger of its own, so there is a field for each.

    Five of the fields count what was sent, by kind.
    """

    sender: Connection
    receiver: Connection
    rate: float = 500
    core: int = 0
    stored: int = 0
    put: int = 0
    answered: int = 0
    objects: int = 0
    acks: list["asyncio.Future[api.PubAck]"] = field(default_factory=list)
    ledgers: dict[str, Ledger] = field(default_factory=lambda: {kind: Ledger() for kind in KINDS})

    def count(self, kind: str, message: Msg, *, redelivered: bool = False) -> None:
        self.ledgers[kind].arrived(int(message.data), time.monotonic_ns(), redelivered=redelivered)

    async def subscribe(self) -> JetStreamContext.PullSubscription:
        async def group(message: Msg) -> None:
            self.count("group", message)

        async def plain(message: Msg) -> None:
            self.count("plain", message)

        async def echo(message: Msg) -> None:
            await message.respond(message.data)

        async def pushed(message: Msg) -> None:
            self.count("pushed", message, redelivered=message.metadata.num_delivered > 1)

        async def shared(message: Msg) -> None:
            self.count("shared", message, redelivered=message.metadata.num_delivered > 1)

        async def ordered(message: Msg) -> None:
            self.count("ordered", message)

        await self.receiver.subscribe("core", queue="workers", cb=group)
        await self.receiver.subscribe("core", cb=plain)
        await self.receiver.subscribe("echo", queue="echoes", cb=echo)
        config = api.ConsumerConfig(ack_wait=20, max_ack_pending=5000)
        jetstream = self.receiver.jetstream()
        await jetstream.subscribe("stored", durable="p", stream="LOAD", cb=pushed, config=replace(config))
        for _ in range(2):
            await jetstream.subscribe("stored", queue="s", stream="LOAD", cb=shared, config=replace(config))
        await jetstream.subscribe("stored", stream="LOAD", cb=ordered, ordered_consumer=True, idle_heartbeat=0.5)
        puller = await jetstream.pull_subscribe("stored", durable="d", stream="LOAD", config=config)
        await self.receiver.flush()
        return puller

    async def iterate(self, subscription: Subscription) -> None:
        async for message in subscription.messages:
            self.count("iterated", message)

    async def watch(self, bucket: KeyValue) -> None:
        watcher = await bucket.watchall()
        async for entry in watcher:
            if entry is not None:
                assert entry.value is not None
                self.ledgers["watched"].arrived(int(entry.value), time.monotonic_ns())

    async def put_keys(self, bucket: KeyValue, stop: asyncio.Event) -> None:
        """Each key holds one number and is put once, so none replaces another before it was seen."""
        start = time.monotonic()
        while not stop.is_set():
            due = int((time.monotonic() - start) * self.rate / _EVERY)
            while self.put < due and not stop.is_set():
                await bucket.put(f"k{self.put + 1}", b"%d" % (self.put + 1))
                self.put += 1
            await asyncio.sleep(0.004)

    async def replace_objects(self, reading: ObjectStore, writing: ObjectStore, stop: asyncio.Event) -> None:
        content = bytes(range(256)) * 2048  # four chunks
        while not stop.is_set():
            await writing.put("object", content)
            assert (await reading.get("object")).data == content
            self.objects += 1

    async def fetch(self, puller: JetStreamContext.PullSubscription) -> None:
        while True:
            try:
                messages = await puller.fetch(100, timeout=1)
            except nats.errors.TimeoutError:
                continue
            for message in messages:
                self.count("stored", message, redelivered=message.metadata.num_delivered > 1)
                await message.ack()

    async def publish(self, stop: asyncio.Event) -> None:
        jetstream = self.sender.jetstream()
        start = time.monotonic()
        while not stop.is_set():
            due = int((time.monotonic() - start) * self.rate)
            while self.core < due:
                self.core += 1
                await self.sender.publish("core", b"%d" % self.core)
                self.stored += 1
                self.acks.append(await jetstream.publish_async("stored", b"%d" % self.stored))
            await asyncio.sleep(0.004)

    async def request(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            answer = await self.sender.request("echo", b"%d" % self.answered, timeout=5)
            assert answer.data == b"%d" % self.answered
            self.answered += 1
            await asyncio.sleep(0.001)

    async def more(self) -> None:
        """Wait until a hundred more messages of every kind and an answer have arrived."""
        before, answered, objects = (
            {kind: one.received for kind, one in self.ledgers.items()},
            self.answered,
            self.objects,
        )
        await eventually(
            lambda: (
                self.answered > answered
                and self.objects > objects
                and all(ledger.received > before[kind] + 25 for kind, ledger in self.ledgers.items())
            ),
            "more of every kind has come",
        )

    def complete(self) -> bool:
        return all(not self.ledgers[kind].missing(self.published(kind)) for kind in KINDS)

    def published(self, kind: str) -> int:
        if kind == "watched":
            return self.put
        return self.core if kind in CORE else self.stored

    def faults(self) -> dict[str, Any]:
        """Messages that were lost, duplicated, redelivered or out of order; empty without any."""
        found: dict[str, Any] = {}
        for kind, ledger in self.ledgers.items():
            found[f"{kind} lost"] = ledger.missing(self.published(kind))
            found[f"{kind} duplicated"] = ledger.duplicated
            found[f"{kind} redelivered"] = ledger.redelivered
            if kind not in UNORDERED:
                found[f"{kind} out of order"] = ledger.out_of_order
        return {name: count for name, count in found.items() if count}


@asynccontextmanager
async def traffic(sender: Connection, receiver: Connection, rate: float = 400) -> AsyncIterator[Traffic]:
    """Publish inside the block; afterwards every message has arrived or is lost."""
    jetstream = sender.jetstream()
    await jetstream.add_stream(name="LOAD", subjects=["stored"], num_replicas=3, storage=api.StorageType.MEMORY)
    bucket = await jetstream.create_key_value(bucket=_BUCKET, replicas=3, storage=api.StorageType.MEMORY)
    store = await jetstream.create_object_store(
        _BUCKET, config=api.ObjectStoreConfig(replicas=3, storage=api.StorageType.MEMORY)
    )
    flow = Traffic(sender, receiver, rate)
    stop = asyncio.Event()
    iterated = await receiver.subscribe("core")
    puller = await flow.subscribe()  # the server has all subscriptions before the first message is sent
    watched = await receiver.jetstream().key_value(_BUCKET)
    read = await receiver.jetstream().object_store(_BUCKET)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [flow.iterate(iterated), flow.fetch(puller), flow.watch(watched)]
            receiving = [group.create_task(task) for task in tasks]
            await receiver.flush()
            tasks = [flow.publish(stop), flow.request(stop), flow.put_keys(bucket, stop)]
            sending = [group.create_task(task) for task in (*tasks, flow.replace_objects(read, store, stop))]
            await flow.more()
            yield flow
            stop.set()
            await asyncio.wait(sending)
            await asyncio.wait_for(asyncio.gather(*flow.acks), PATIENCE)
            await sender.flush()
            await settled(flow)
            for task in receiving:
                task.cancel()
    finally:
        await jetstream.delete_stream("LOAD")
        await jetstream.delete_key_value(_BUCKET)
        await jetstream.delete_object_store(_BUCKET)


async def settled(flow: Traffic) -> None:
    """Return when all messages arrived, or when none arrived for a second."""
    last, since = -1, time.monotonic()
    while not flow.complete() and time.monotonic() - since < 1:
        received = sum(ledger.received for ledger in flow.ledgers.values())
        if received != last:
            last, since = received, time.monotonic()
        await asyncio.sleep(0.01)
