"""The publisher: numbered messages at a steady rate, half core, half JetStream, through every change of trust.

Its state file: ``{"run", "core": {"published"}, "jetstream": {"published", "acked"}, "reloads", "finished"}``. Counts
are of different numbers; ``published`` is final, and everything acknowledged, once ``finished`` is true.
"""

import argparse
import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import nats.js.errors

from playground.load import (
    CORE_SUBJECT,
    JETSTREAM_SUBJECT,
    READY_SUBJECT,
    CountedReloads,
    StateFile,
    arguments,
    connected,
    make_stream,
    settle_memory,
    stop_signal,
)
from tidemark.nats import Connection, JetStream
from tidemark.nats.endpoint import serve_reload

_TICK_SECONDS = 0.008
_ACK_SECONDS = 2.0  # without an acknowledgement, the number is sent again
_LAST_ACKS_SECONDS = 10.0
_READY_SECONDS = 60.0


@dataclass(slots=True)
class Outstanding:
    """A message that the stream has not acknowledged yet."""

    number: int
    payload: bytes
    sent: float
    ack: asyncio.Future[Any]


@dataclass(slots=True)
class MessagePublisher:
    """Publishes both kinds and knows what is acknowledged."""

    connection: Connection
    jetstream: JetStream
    run: str
    core: int = 0
    stored: int = 0
    acked: int = 0
    outstanding: dict[int, Outstanding] = field(default_factory=dict)

    async def publish_core(self) -> None:
        """The next number, by core NATS."""
        self.core += 1
        await self.connection.publish(CORE_SUBJECT, self._payload(self.core))

    async def publish_stored(self) -> None:
        """The next number, to the stream; the acknowledgement is not waited for."""
        self.stored += 1
        await self._send(self.stored, self._payload(self.stored))

    async def repeat_unacknowledged(self, older_than: float) -> None:
        """Send again what has waited for so many seconds; the stream drops what it has, by the message's id."""
        before = time.monotonic() - older_than
        for waiting in [one for one in self.outstanding.values() if one.sent < before]:
            waiting.ack.cancel()
            await self._send(waiting.number, waiting.payload)

    async def _send(self, number: int, payload: bytes) -> None:
        headers = {"Nats-Msg-Id": f"{self.run}.{number}"}
        ack = await self.jetstream.publish_async(JETSTREAM_SUBJECT, payload, headers=headers)
        self.outstanding[number] = Outstanding(number, payload, time.monotonic(), ack)
        ack.add_done_callback(lambda done: self._acknowledged(number, done))

    def _acknowledged(self, number: int, done: asyncio.Future[Any]) -> None:
        # A refusal (no leader at the moment) leaves the number outstanding, to be sent again.
        if not done.cancelled() and done.exception() is None and self.outstanding.pop(number, None) is not None:
            self.acked += 1

    def _payload(self, number: int) -> bytes:
        return f"{self.run} {number} {time.monotonic_ns()}".encode()

    def state(self, reloads: CountedReloads) -> dict[str, Any]:
        """What the state file shows."""
        return {
            "run": self.run,
            "core": {"published": self.core},
            "jetstream": {"published": self.stored, "acked": self.acked},
            "reloads": reloads.count,
        }


async def keep_rate(publisher: MessagePublisher, rate: float, stop: asyncio.Event) -> None:
    """Publish until stopped, in batches of a few milliseconds; a pause is made up for at once."""
    start = time.monotonic()
    while not stop.is_set():
        due = int((time.monotonic() - start) * rate / 2)
        while publisher.core < due:
            await publisher.publish_core()
            await publisher.publish_stored()
        await asyncio.sleep(_TICK_SECONDS)


async def keep_repeating(publisher: MessagePublisher) -> None:
    """Look after what is not acknowledged, until cancelled."""
    while True:
        await asyncio.sleep(_ACK_SECONDS / 4)
        await publisher.repeat_unacknowledged(_ACK_SECONDS)


async def wait_for_consumer(connection: Connection, run: str, stop: asyncio.Event) -> None:
    """Return once the consumer says that it receives this run."""
    until = time.monotonic() + _READY_SECONDS
    while not stop.is_set():
        try:
            await connection.request(READY_SUBJECT, run.encode(), timeout=1)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def last_acknowledgements(publisher: MessagePublisher) -> None:
    """Wait until everything is acknowledged, for some seconds."""
    until = time.monotonic() + _LAST_ACKS_SECONDS
    while publisher.outstanding and time.monotonic() < until:
        acks = [waiting.ack for waiting in publisher.outstanding.values()]
        await asyncio.wait(acks, timeout=_ACK_SECONDS / 4)
        await publisher.repeat_unacknowledged(_ACK_SECONDS)
    await publisher.connection.flush()


async def run(options: argparse.Namespace) -> None:
    """Publish until SIGTERM."""
    connection = await connected(options.directory, options.servers, "publisher")
    jetstream = connection.jetstream()
    publisher = MessagePublisher(connection, jetstream, secrets.token_hex(4))
    reloads = CountedReloads(connection)
    state = StateFile(options.state, lambda: publisher.state(reloads))
    endpoint = await serve_reload(reloads, port=options.reload_port)
    try:
        await make_stream(jetstream)
        stop = stop_signal()
        await wait_for_consumer(connection, publisher.run, stop)
        settle_memory()
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(state.keep(), name="state file")
            repeating = group.create_task(keep_repeating(publisher), name="repeating")
            await keep_rate(publisher, options.rate, stop)
            repeating.cancel()
            await last_acknowledgements(publisher)
            writing.cancel()
    finally:
        state.write(finished=True)
        await endpoint.cleanup()
        await connection.close()


def main() -> None:
    """The command line."""
    parser = arguments("Publishes numbered messages to the playground's cluster until SIGTERM.")
    parser.add_argument("--rate", type=float, default=2000, help="messages a second, half core, half JetStream")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
