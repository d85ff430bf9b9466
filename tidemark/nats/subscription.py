"""A subscription that outlives the wire it was made on: nats-py's own, fed by one wire or, during a swap, by two."""

from collections.abc import Awaitable, Callable
from typing import Any

import nats.aio.subscription
from nats.aio.msg import Msg
from nats.aio.subscription import DEFAULT_SUB_PENDING_BYTES_LIMIT, DEFAULT_SUB_PENDING_MSGS_LIMIT

Callback = Callable[[Msg], Awaitable[None]]


class Subscription(nats.aio.subscription.Subscription):
    """What ``Connection.subscribe`` returns; used like nats-py's, and valid across swaps.

    On the server each is a member of a queue group: the application's, or else one of its own that nobody shares. So
    while two wires hold it, every message comes in by exactly one of them. Two kinds are in no group, as nats-server
    tells only plain subscriptions that nobody responds, and delivers a push consumer's messages only to them:

    - inboxes for answers, which may come in twice, as only the first one counts;
    - inboxes of JetStream consumers (``in_stream_order``): ``overlap`` lets each message pass once, in order.

    Made by ``Connection`` alone.
    """

    def __init__(  # noqa: PLR0913 # nats-py's own parameters
        self,
        connection: Any,
        sid: int,
        subject: str,
        *,
        queue: str = "",
        private_group: str = "",
        in_stream_order: bool = False,
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
        self.in_stream_order = in_stream_order
        """A JetStream consumer delivers to it alone."""
        self.fetched = False
        """Its messages are processed only if someone fetches them."""
        self.last_fetch: Callable[[], Awaitable[None]] | None = None
        """Sends the latest pull request again."""
        self._shown_queue = queue

    @property
    def sid(self) -> int:
        """The number by which the server knows it; the same on every wire."""
        return self._id

    @property
    def queue(self) -> str:
        """The application's queue group, empty without one."""
        return self._shown_queue

    @property
    def left(self) -> int:
        """How many messages are left of an auto-unsubscribe limit; 0 without one."""
        return max(self._max_msgs - self._received, 0)

    @property
    def is_waited_for(self) -> bool:
        """Whether a ``next_msg`` or a ``fetch`` waits for a message just now."""
        return bool(self._pending_next_msgs_calls)

    def limit_to(self, messages: int) -> None:
        """End after so many; counted over every wire."""
        self._max_msgs = messages

    def move(self, sid: int, subject: str) -> None:
        """Go by another number and subject from now on, as an ordered consumer does that begins anew."""
        self._id = sid
        self._subject = subject

    def start(self, error: Callable[[Exception], Awaitable[None]]) -> None:
        """Begin to process what comes in; exceptions of the callback go to ``error``."""
        self._start(error)  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End callback, iterator and waiting ``next_msg`` calls, as nats-py does when a connection closes."""
        self._closed = True
        self._stop_processing()
        for call in (self._pending_next_msgs_calls or {}).values():
            call.cancel()
        for task in (self._jsi._hbtask, self._jsi._fctask) if self._jsi is not None else ():
            if task is not None:
                task.cancel()

    async def _drain(self) -> None:
        if not self.fetched:
            await super()._drain()
            return
        # What a pull consumer's inbox holds is only processed if someone fetches it, so nats-py would wait for it in
        # vain until its drain_timeout. Unacknowledged as it is, the server delivers it again.
        await self._conn._send_unsubscribe(self.sid)
        self._conn._remove_sub(self.sid)
        self.stop()
