"""While two transports hold a JetStream consumer's inbox, each message is delivered once, in the consumer's order.

A consumer delivers to a subject. During a hand-over both transports are subscribed to this subject, so both bring every
message that is sent meanwhile. The old transport's messages are delivered at once. The new transport's are held back
until the old one has brought its last message; then those are delivered that the old one did not bring. A consumer
numbers its deliveries in the reply subject, so the last number of the old transport tells which these are (ADR-15 of
https://github.com/nats-io/nats-architecture-and-design).
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

_ACK = b"$JS.ACK."
_SHORT = 9  # tokens of a reply subject without domain and account


class DeliveredMessage(NamedTuple):
    """The arguments of nats-py's ``Client._process_msg``."""

    sid: int
    """Number of the subscription."""
    subject: bytes
    reply: bytes
    """Where to acknowledge; it holds the consumer's name and the number of the delivery."""
    data: bytes
    headers: bytes


class Deduplicator:
    """Decides about the deliveries of one hand-over. Used by one event loop, without locks."""

    def __init__(self) -> None:
        self._last_of_old: dict[int, bytes] = {}
        """Reply subject of the last message that the old transport brought, by subscription."""
        self._held_back: list[DeliveredMessage] = []
        self._released = False

    def record_old(self, message: DeliveredMessage) -> None:
        """Note a message that the old transport delivers."""
        if message.reply.startswith(_ACK):
            self._last_of_old[message.sid] = message.reply

    def stops_new(self, message: DeliveredMessage) -> bool:
        """Whether a message of the new transport must not be delivered now.

        Such a message is held back for ``release``, or the old transport has delivered it.
        """
        if not self._released:
            self._held_back.append(message)
            return True
        if not self._last_of_old:
            return False
        if self._delivered_by_old(message):  # late: the new transport's server is another one, and slower
            return True
        # A later number: from here on every message of this subscription is new.
        if message.reply.startswith(_ACK):
            self._last_of_old.pop(message.sid, None)
        return False

    async def release(self, deliver: Callable[[DeliveredMessage], Awaitable[None]]) -> None:
        """Deliver what was held back and not delivered by the old transport, which has brought its last message."""
        # More may be held back while these are delivered, and must follow them.
        while self._held_back:
            held_back, self._held_back = self._held_back, []
            for message in self._missed_by_old(held_back):
                await deliver(message)
        self._released = True

    def _missed_by_old(self, held_back: list[DeliveredMessage]) -> list[DeliveredMessage]:
        # Heartbeats have no number. What stands before a message that the old transport delivered, was delivered too.
        begins: dict[int, int] = {}
        for place, message in enumerate(held_back):
            if self._delivered_by_old(message):
                begins[message.sid] = place + 1
        return [message for place, message in enumerate(held_back) if place >= begins.get(message.sid, 0)]

    def _delivered_by_old(self, message: DeliveredMessage) -> bool:
        last = self._last_of_old.get(message.sid)
        if last is None or not message.reply.startswith(_ACK):
            return False
        consumer, number = _consumer_and_number(message.reply)
        last_consumer, last_number = _consumer_and_number(last)
        return consumer == last_consumer and number <= last_number


def _consumer_and_number(reply: bytes) -> tuple[bytes, int]:
    """The consumer's name and the number of the delivery, from either form of ``$JS.ACK.…`` (ADR-15)."""
    tokens = reply.split(b".")
    return (tokens[3], int(tokens[6])) if len(tokens) == _SHORT else (tokens[5], int(tokens[8]))
