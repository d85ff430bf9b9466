"""nats-py's subscription, on one transport or, during a hand-over, on two; it outlives the transports."""

from collections.abc import Awaitable, Callable
from typing import Any

import nats.aio.subscription
from nats.aio.msg import Msg
from nats.aio.subscription import DEFAULT_SUB_PENDING_BYTES_LIMIT, DEFAULT_SUB_PENDING_MSGS_LIMIT

Callback = Callable[[Msg], Awaitable[None]]


class Subscription(nats.aio.subscription.Subscription):
    """What ``Connection.subscribe`` returns; used like nats-py's, and valid across reloads.

    On the server each subscription is a member of a queue group: the application's, or a private group with a name of
    its own. So while two transports hold the subscription, each message arrives by exactly one of them. Two kinds are
    in no group, because nats-server reports "no responders" only to plain subscriptions, and delivers a push consumer's
    messages only to plain subscriptions:

    - inboxes for answers: an answer may arrive twice, and only the first counts;
    - inboxes of JetStream consumers (``in_stream_order``): ``dedup`` delivers each message once, in order.

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
        """Whether a JetStream consumer delivers to this subscription alone."""
        self.fetched = False
        """Whether messages are processed only when the application fetches them."""
        self.last_fetch: Callable[[], Awaitable[None]] | None = None
        """Sends the latest pull request again."""
        self._application_queue = queue

    @property
    def sid(self) -> int:
        """The number by which the server knows the subscription; the same on every transport."""
        return self._id

    @property
    def queue(self) -> str:
        """The application's queue group, empty without one."""
        return self._application_queue

    @property
    def left(self) -> int:
        """How many messages are left of an auto-unsubscribe limit; 0 without a limit."""
        return max(self._max_msgs - self._received, 0)

    @property
    def is_waited_for(self) -> bool:
        """Whether a ``next_msg`` or a ``fetch`` waits for a message at the moment."""
        return bool(self._pending_next_msgs_calls)

    def limit_to(self, messages: int) -> None:
        """End after so many messages, counted over all transports."""
        self._max_msgs = messages

    def move(self, sid: int, subject: str) -> None:
        """Use another number and subject from now on, as an ordered consumer that is reset does."""
        self._id = sid
        self._subject = subject

    def start(self, error: Callable[[Exception], Awaitable[None]]) -> None:
        """Begin to process messages; exceptions of the callback go to ``error``."""
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
        # nats-py would wait until its drain_timeout for messages that only a fetch would process. They are not
        # acknowledged, so the server delivers them again.
        await self._conn._send_unsubscribe(self.sid)
        self._conn._remove_sub(self.sid)
        self.stop()
