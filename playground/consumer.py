"""The consumer: counts the messages that arrive, by number, through every change of trust.

Its state file: ``{"run", "core": {...}, "jetstream": {...}, "reloads", "finished"}``, each kind with ``received``
(different numbers), ``duplicated``, ``out_of_order``, ``highest``, ``missing`` (below ``highest`` or, once
``finished``, of what was published), ``longest_gap_ms`` and ``recent_gap_ms`` (between two arrivals; the latter in the
last two seconds) and ``gaps_ms`` (the longest from each reload to the next); ``jetstream`` also ``redelivered``.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from playground.ledger import Ledger
from playground.load import (
    CORE_SUBJECT,
    JETSTREAM_SUBJECT,
    READY_SUBJECT,
    STREAM,
    CountedReloads,
    StateFile,
    arguments,
    connected,
    make_stream,
    read_state,
    settle_memory,
    stop_signal,
)
from tidemark.nats import Connection
from tidemark.nats.endpoint import serve_reload

_GROUP = "playground"
_ACK_SECONDS = 10
_CONSUMER = api.ConsumerConfig(ack_policy=api.AckPolicy.EXPLICIT, ack_wait=_ACK_SECONDS, max_ack_pending=10_000)
_BATCH = 200
_FETCH_SECONDS = 2.0
_RETRY_SECONDS = 0.1
_RECENT_SECONDS = 2.0
_TAIL_SECONDS = 18.0
_QUIET_SECONDS = 2.0
_REDELIVERED_SECONDS = _ACK_SECONDS + _QUIET_SECONDS


@dataclass(slots=True)
class Consumer:
    """Counts the messages of one run: the first that announces itself."""

    run: str = ""
    core: Ledger = field(default_factory=Ledger)
    jetstream: Ledger = field(default_factory=Ledger)
    published: dict[str, int | None] = field(default_factory=lambda: {"core": None, "jetstream": None})
    """What the publisher says that it published, once it is known."""
    _recent: dict[str, int] = field(default_factory=dict)
    _since_reload: dict[str, int] = field(default_factory=dict)
    _at_reloads: dict[str, list[int]] = field(default_factory=lambda: {"core": [], "jetstream": []})

    async def take_core(self, message: Msg) -> None:
        """A message of core NATS."""
        self._count(self.core, message.data, redelivered=False)

    async def take_stored(self, message: Msg) -> None:
        """A message of the stream."""
        self._count(self.jetstream, message.data, redelivered=message.metadata.num_delivered > 1)
        await message.ack()

    def _count(self, ledger: Ledger, payload: bytes, *, redelivered: bool) -> None:
        run, number, _sent = payload.split()
        if run.decode() == self.run:
            ledger.arrived(int(number), time.monotonic_ns(), redelivered=redelivered)

    async def announce(self, message: Msg) -> None:
        """A publisher asks whether it may start."""
        self.run = self.run or message.data.decode()
        await message.respond(b"ready")

    @property
    def complete(self) -> bool:
        """Whether every published message has arrived."""
        return self._has_all("core", self.core) and self._has_all("jetstream", self.jetstream)

    @property
    def patience(self) -> float:
        """After how many seconds without a message no further message is expected.

        What a server had sent when it was killed is lost to core NATS, but a stream delivers it again once it has
        waited for the acknowledgement.
        """
        return _QUIET_SECONDS if self._has_all("jetstream", self.jetstream) else _REDELIVERED_SECONDS

    def _has_all(self, kind: str, ledger: Ledger) -> bool:
        published = self.published[kind]
        return published is not None and not ledger.missing(published)

    def note_recent_gaps(self) -> None:
        """Begin a new stretch of recent gaps."""
        self._recent = {"core": self.core.take_recent_gap(), "jetstream": self.jetstream.take_recent_gap()}
        self._since_reload = {kind: max(gap, self._since_reload.get(kind, 0)) for kind, gap in self._recent.items()}

    def note_reload(self) -> None:
        """A reload begins: the gaps from here on are its own."""
        self.note_recent_gaps()
        for kind, gap in self._since_reload.items():
            self._at_reloads[kind].append(gap)
        self._since_reload = {}

    def state(self, reloads: CountedReloads) -> dict[str, Any]:
        """What the state file shows."""
        return {
            "run": self.run,
            "core": self._figures("core", self.core),
            "jetstream": self._figures("jetstream", self.jetstream) | {"redelivered": self.jetstream.redelivered},
            "reloads": reloads.count,
        }

    def _figures(self, kind: str, ledger: Ledger) -> dict[str, Any]:
        return {
            "received": ledger.received,
            "duplicated": ledger.duplicated,
            "out_of_order": ledger.out_of_order,
            "highest": ledger.highest,
            "missing": ledger.missing(self.published[kind]),
            "longest_gap_ms": round(ledger.longest_gap / 1e6, 1),
            "gaps_ms": [round(gap / 1e6, 1) for gap in self._at_reloads[kind]],
            "recent_gap_ms": round(max(ledger.recent_gap, self._recent.get(kind, 0)) / 1e6, 1),
        }


async def keep_fetching(puller: JetStreamContext.PullSubscription, consumer: Consumer) -> None:
    """Fetch until cancelled."""
    while True:
        try:
            messages = await puller.fetch(_BATCH, timeout=_FETCH_SECONDS)
        except nats.errors.TimeoutError:
            continue
        except nats.js.errors.APIError:  # the consumer has no leader at the moment
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        for message in messages:
            await consumer.take_stored(message)


async def keep_recent(consumer: Consumer) -> None:
    """Forget gaps that are no longer recent, until cancelled."""
    while True:
        await asyncio.sleep(_RECENT_SECONDS)
        consumer.note_recent_gaps()


async def take_the_rest(consumer: Consumer, expect: Path | None) -> None:
    """Receive until every message that the publisher has counted is here, or none has arrived for a while."""
    until = time.monotonic() + _TAIL_SECONDS
    came, quiet_since = -1, time.monotonic()
    while expect is not None and not consumer.complete and time.monotonic() < until:
        published = read_state(expect)
        if published.get("finished") and published["run"] == consumer.run:
            consumer.published = {kind: published[kind]["published"] for kind in consumer.published}
            if came != (came := consumer.core.received + consumer.jetstream.received):
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > consumer.patience:
                return
        await asyncio.sleep(0.02)


async def receiving(connection: Connection, consumer: Consumer) -> JetStreamContext.PullSubscription:
    """Subscribe to everything; only then answer a publisher that asks."""
    jetstream = connection.jetstream()
    await make_stream(jetstream)
    await connection.subscribe(CORE_SUBJECT, queue=_GROUP, cb=consumer.take_core)
    puller = await jetstream.pull_subscribe(JETSTREAM_SUBJECT, durable=_GROUP, stream=STREAM.name, config=_CONSUMER)
    await connection.subscribe(READY_SUBJECT, cb=consumer.announce)
    await connection.flush()
    return puller


async def run(options: argparse.Namespace) -> None:
    """Receive until SIGTERM, then receive the rest."""
    connection = await connected(options.directory, options.servers, "consumer")
    consumer = Consumer()
    reloads = CountedReloads(connection, consumer.note_reload)
    state = StateFile(options.state, lambda: consumer.state(reloads))
    endpoint = await serve_reload(reloads, port=options.reload_port)
    try:
        puller = await receiving(connection, consumer)
        stop = stop_signal()
        settle_memory()
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(state.keep(), name="state file"),
                group.create_task(keep_fetching(puller, consumer), name="fetching"),
                group.create_task(keep_recent(consumer), name="recent gaps"),
            ]
            await stop.wait()
            await take_the_rest(consumer, options.expect)
            for task in background:
                task.cancel()
    finally:
        state.write(finished=True)
        await endpoint.cleanup()
        await connection.close()


def main() -> None:
    """The command line."""
    parser = arguments("Counts the playground's messages until SIGTERM.")
    parser.add_argument("--expect", type=Path, help="the publisher's state file: what must have come at the end")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
