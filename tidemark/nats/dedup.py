"""While two wires hold a JetStream consumer's inbox, each of its messages passes once, in the consumer's order.

A consumer delivers to a subject, and both wires are subscribed to it, so both bring everything that is sent while they
are. The old wire's deliveries pass as ever. The new wire's are kept back until the old one has brought its last; then
those follow that it did not bring. Consumers number their deliveries (the number is in the reply subject), so it takes
the old wire's last number to know.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

_ACK = b"$JS.ACK."
_SHORT = 9  # tokens of a reply subject without domain and account


class DeliveredMessage(NamedTuple):
    """The arguments of nats-py's ``Client._process_msg``."""

    sid: int
    subject: bytes
    reply: bytes
    data: bytes
    headers: bytes


class Deduplicator:
    """The deliveries of one hand-over."""

    def __init__(self) -> None:
        self._last: dict[int, bytes] = {}
        self._kept: list[DeliveredMessage] = []
        self._ended = False

    def brought_by_old(self, delivery: DeliveredMessage) -> None:
        """Note what passes."""
        if delivery.reply.startswith(_ACK):
            self._last[delivery.sid] = delivery.reply

    def stops_new(self, delivery: DeliveredMessage) -> bool:
        """Whether this one must not pass now: it is kept back, or the old wire has brought it."""
        if not self._ended:
            self._kept.append(delivery)
            return True
        if not self._last:
            return False
        if self._was_brought(delivery):  # by a slower way: the new wire's server is another one
            return True
        if delivery.reply.startswith(_ACK):
            self._last.pop(delivery.sid, None)
        return False

    async def end(self, deliver: Callable[[DeliveredMessage], Awaitable[None]]) -> None:
        """Let pass what was kept back and has not passed; the old wire has brought its last."""
        while self._kept:
            kept, self._kept = self._kept, []
            for delivery in self._not_brought(kept):
                await deliver(delivery)
        self._ended = True

    def _not_brought(self, kept: list[DeliveredMessage]) -> list[DeliveredMessage]:
        # What stands before a message that the old wire brought, it has brought too: heartbeats have no number.
        begins: dict[int, int] = {}
        for place, delivery in enumerate(kept):
            if self._was_brought(delivery):
                begins[delivery.sid] = place + 1
        return [delivery for place, delivery in enumerate(kept) if place >= begins.get(delivery.sid, 0)]

    def _was_brought(self, delivery: DeliveredMessage) -> bool:
        last = self._last.get(delivery.sid)
        if last is None or not delivery.reply.startswith(_ACK):
            return False
        consumer, number = _numbered(delivery.reply)
        last_consumer, last_number = _numbered(last)
        return consumer == last_consumer and number <= last_number


def _numbered(reply: bytes) -> tuple[bytes, int]:
    """The consumer's name and the number of the delivery (ADR-15: two forms of ``$JS.ACK.…``)."""
    tokens = reply.split(b".")
    return (tokens[3], int(tokens[6])) if len(tokens) == _SHORT else (tokens[5], int(tokens[8]))
