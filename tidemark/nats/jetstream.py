"""JetStream over a connection that is replaced under it: nats-py's, with publishes that may be repeated."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from tidemark.nats.subscription import Subscription

if TYPE_CHECKING:
    from tidemark.nats.connection import Connection

_ASK_AGAIN = 1.0  # seconds without an acknowledgement
_NOBODY_THERE = 0.25  # seconds to wait for a stream that has no leader at the moment
_TAKING = 0.02  # seconds between looks whether the application has taken what a server waits for


class JetStream(JetStreamContext):
    """nats-py's ``JetStreamContext``; streams, consumers and everything else are managed as there."""

    def __init__(self, connection: "Connection", **options: Any) -> None:
        super().__init__(_Inboxes(connection), **options)  # type: ignore[arg-type] # it has what nats-py calls
        self._connection = connection
        self._beginning_anew: set[JetStreamContext._JSI] = set()

    async def publish(  # noqa: PLR0913, PLR0917 # nats-py's own parameters
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float | None = None,  # noqa: ASYNC109 # nats-py's own parameter
        stream: str | None = None,
        headers: dict[str, Any] | None = None,
        msg_ttl: float | None = None,
    ) -> api.PubAck:
        """Store a message once, though it may be sent several times within ``timeout`` seconds.

        An acknowledgement can be lost with a server. So the message is sent again with the same ``Nats-Msg-Id``, and
        the stream drops the copies (``timeout`` must be shorter than its ``duplicate_window``). An application that
        repeats a publish itself sets that header itself, the same each time; otherwise it is made up here.

        Raises:
            nats.errors.TimeoutError: no acknowledgement; the message may be stored or not.
            nats.js.errors.NoStreamResponseError: no stream took the subject, all that time.
            nats.js.errors.APIError: the stream refused it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        headers = self._with_id(headers)
        while True:
            left = deadline - loop.time()
            try:
                return await super().publish(subject, payload, min(left, _ASK_AGAIN), stream, headers, msg_ttl)
            except nats.errors.TimeoutError:
                if loop.time() >= deadline:
                    raise
            except nats.js.errors.NoStreamResponseError:
                if loop.time() + _NOBODY_THERE >= deadline:
                    raise
                await asyncio.sleep(_NOBODY_THERE)

    async def publish_async(  # noqa: PLR0913, PLR0917 # nats-py's own parameters
        self,
        subject: str,
        payload: bytes = b"",
        wait_stall: float | None = None,
        stream: str | None = None,
        headers: dict[str, Any] | None = None,
        msg_ttl: float | None = None,
    ) -> asyncio.Future[api.PubAck]:
        """Send a message without waiting; the future has its acknowledgement. Not repeated: the application does that.

        To do so safely it sets ``Nats-Msg-Id`` itself.
        """
        return await super().publish_async(subject, payload, wait_stall, stream, self._with_id(headers), msg_ttl)

    async def _init_async_reply(self) -> None:
        self._publish_async_futures = {}
        inbox = f"{self._connection.new_inbox()}."
        self._async_reply_prefix = bytearray(inbox.encode())
        await self._connection.subscribe_answers(f"{inbox}*", self._handle_async_reply)

    def _with_id(self, headers: dict[str, Any] | None) -> dict[str, Any]:
        return {api.Header.MSG_ID.value: self._connection.new_id()} | (headers or {})

    async def pull_subscribe_bind(self, *args: Any, **options: Any) -> JetStreamContext.PullSubscription:
        """Bind to a pull consumer. Its ``fetch`` goes on across swaps, and its messages keep their order."""
        return PullSubscription(await super().pull_subscribe_bind(*args, **options), self._connection)

    async def subscribe_bind(self, *args: Any, **options: Any) -> JetStreamContext.PushSubscription:
        """Bind to a push consumer, ordered ones too. It goes on across swaps, and its messages keep their order."""
        push = await super().subscribe_bind(*args, **options)
        state = cast(JetStreamContext._JSI, push._sub._jsi)
        # nats-py begins an ordered consumer anew while it reads from the wire. To wait there, for a swap that waits for
        # the wire to be read, would be a deadlock.
        state.reset_ordered_consumer = partial(self._begin_anew, state)  # type: ignore[method-assign]
        if state._fctask is not None:
            # nats-py looks four times a second, for ever, whether an answer has come due. Here that is looked at while
            # one is owed: an idle process sleeps.
            state._fctask.cancel()
            state.schedule_flow_control_response = partial(self._owe_answer, state)
        return push

    def _owe_answer(self, state: JetStreamContext._JSI, reply: str) -> None:
        """The server waits to hear that what it sent so far was taken."""
        is_looked_after = state._fcr is not None
        state._active, state._fcr, state._fcd = True, reply, state._fciseq
        if not is_looked_after:
            self._connection.own(self._answer_once_taken(state), name="tidemark flow control")

    async def _answer_once_taken(self, state: JetStreamContext._JSI) -> None:
        while state._fcr is not None and not state._sub._closed:
            if state._fciseq - state._psub._pending_queue.qsize() >= state._fcd:
                reply, state._fcr = state._fcr, None
                await self._connection.publish(reply)
            else:
                await asyncio.sleep(_TAKING)

    async def _begin_anew(self, state: JetStreamContext._JSI, _sequence: int | None) -> bool:
        """True: the message that showed the need is dropped, as the new consumer delivers it again."""
        if state not in self._beginning_anew:
            self._beginning_anew.add(state)
            self._connection.own(self._replace_consumer(state), name="tidemark ordered consumer")
        return True

    async def _replace_consumer(self, state: JetStreamContext._JSI) -> None:
        try:
            inbox = self._connection.new_inbox()
            if not await self._connection.move_subscription(cast(Subscription, state._sub), inbox):
                return  # it ended meanwhile
            state._psub._id = state._sub._id
            state._cmeta, state._dseq = None, 1
            request = state._ccreq
            request.deliver_subject = inbox
            request.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
            request.opt_start_seq = state._sseq + 1
            await state.recreate_consumer()
        finally:
            self._beginning_anew.discard(state)


class _Inboxes:
    """The connection as nats-py's JetStream classes see it: what they subscribe to, a consumer delivers to."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    async def subscribe(self, subject: str, **options: Any) -> Subscription:
        return await self._connection.subscribe_deliveries(subject, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class PullSubscription(JetStreamContext.PullSubscription):
    """nats-py's, which begins a ``fetch`` again where its request died with a server."""

    def __init__(self, made: JetStreamContext.PullSubscription, connection: "Connection") -> None:
        super().__init__(made._js, made._sub, made._stream, made._consumer, made._deliver.encode())
        subscription = cast(Subscription, made._sub)
        subscription.fetched = True
        self._nc = _PullRequests(connection, subscription)  # type: ignore[assignment] # it only publishes

    async def fetch(
        self,
        batch: int = 1,
        timeout: float | None = 5,  # noqa: ASYNC109 # nats-py's own parameter
        heartbeat: float | None = None,
    ) -> list[Msg]:
        """See nats-py's.

        Raises:
            nats.errors.TimeoutError: nothing came in time; nats-py's own may be a bare ``TimeoutError``.
            nats.js.errors.APIError: the stream or consumer is gone, or nobody answers for it (503).
        """
        try:
            return await super().fetch(batch, timeout, heartbeat)
        except nats.errors.TimeoutError:
            raise
        except TimeoutError:
            raise nats.errors.TimeoutError from None


@dataclass(frozen=True, slots=True)
class _PullRequests:
    """The connection as a pull subscription sees it: what it publishes are pull requests."""

    connection: "Connection"
    subscription: Subscription

    async def publish(self, subject: str, payload: bytes, reply: str) -> None:
        send = partial(self.connection.publish, subject, payload, reply)
        self.subscription.last_fetch = send
        await send()
