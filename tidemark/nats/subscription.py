"""A subscription that outlives the wire it was made on: nats-py's own, fed by one wire or, during a swap, by two."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import nats.aio.subscription
from nats.aio.msg import Msg
from nats.aio.subscription import DEFAULT_SUB_PENDING_BYTES_LIMIT, DEFAULT_SUB_PENDING_MSGS_LIMIT

Callback = Callable[[Msg], Awaitable[None]]


class Subscription(nats.aio.subscription.Subscription):
    """What ``Connection.subscribe`` returns; used like nats-py's, and valid across swaps.

    On the server each is a member of a queue group: the application's, or else one of its own that nobody shares. So
    while two wires hold it, every message comes in by exactly one of them. (The exception are inboxes for answers, of
    which only the first counts: they are in no group, ``private_group`` is empty, as nats-server tells only plain
    subscriptions that nobody responds.) Made by ``Connection.subscribe`` alone.
    """

    def __init__(  # noqa: PLR0913 # nats-py's own parameters
        self,
        connection: Any,
        sid: int,
        subject: str,
        *,
        queue: str = "",
        private_group: str,
        cb: Callback | None = None,
        max_msgs: int = 0,
        pending_msgs_limit: int = DEFAULT_SUB_PENDING_MSGS_LIMIT,
        pending_bytes_limit: int = DEFAULT_SUB_PENDING_BYTES_LIMIT,
    ) -> None:
        super().__init__(
            connection,
            sid,
            subject,
            queue=queue or private_group,
            cb=cb,
            max_msgs=max_msgs,
            pending_msgs_limit=pending_msgs_limit,
            pending_bytes_limit=pending_bytes_limit,
        )
        self.sid = sid
        self.in_stream_order = False
        """Set for the inbox of a JetStream consumer: its messages keep their order even through a swap."""
        self._shown_queue = queue
        self._arrivals = _Arrivals(pending_msgs_limit)
        self._pending_queue = self._arrivals

    @property
    def queue(self) -> str:
        """The application's queue group, empty without one."""
        return self._shown_queue

    @property
    def left(self) -> int:
        """How many messages are left of an auto-unsubscribe limit; 0 without one."""
        return max(self._max_msgs - self._received, 0)

    def start(self, error: Callable[[Exception], Awaitable[None]]) -> None:
        """Begin to process what comes in; exceptions of the callback go to ``error``."""
        self._start(error)  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End callback, iterator and waiting ``next_msg`` calls, as nats-py does when a connection closes."""
        self._closed = True
        self._stop_processing()
        for call in (self._pending_next_msgs_calls or {}).values():
            call.cancel()

    def hold(self) -> None:
        """Keep back what comes in, where order matters, until ``release``."""
        if self.in_stream_order:
            self._arrivals.hold()

    def release(self) -> None:
        """Hand on what was kept back, in the order in which the server sent it."""
        self._arrivals.release()

    async def _drain(self) -> None:
        if not self.in_stream_order:
            await super()._drain()
            return
        # What a pull consumer's inbox holds is only processed if someone fetches it, so nats-py would wait for it in
        # vain until its drain_timeout. Unacknowledged as it is, the server delivers it again.
        await self._conn._send_unsubscribe(self.sid)
        self._conn._remove_sub(self.sid)
        self.stop()


class _Arrivals(asyncio.Queue[Msg]):
    """The queue between wires and application, with a place to keep messages back.

    Two wires are read independently, so while both deliver, the order of arrival is not the order of sending. JetStream
    messages carry the consumer's sequence in their reply subject: by it they are put right on ``release``.
    """

    _held: list[Msg] | None = None

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        held, self._held = self._held, None
        for message in sorted(held or (), key=_sent_order):
            super().put_nowait(message)

    def put_nowait(self, item: Msg) -> None:
        if self._held is None:
            super().put_nowait(item)
        elif 0 < self.maxsize <= self.qsize() + len(self._held):
            raise asyncio.QueueFull
        else:
            self._held.append(item)


def _sent_order(message: Msg) -> tuple[bool, int]:
    """Sorts by consumer sequence. A status has none: it ends a pull request, so it comes after the messages."""
    if not message.reply.startswith("$JS.ACK."):
        return True, 0
    return False, message.metadata.sequence.consumer
