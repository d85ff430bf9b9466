"""JetStream over a connection whose transport is replaced: nats-py's, with publishes that are repeated safely."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from tidemark.nats.subscription import Callback, Subscription

_RESEND_SECONDS = 1.0  # without an acknowledgement
_NO_LEADER_SECONDS = 0.25  # between two attempts, while the stream has no leader
_POLL_SECONDS = 0.02  # between two looks whether the application has taken what a server waits for


class JetStreamConnection(Protocol):
    """What JetStream uses of ``Connection``; nats-py's own classes use more of it (see ``client_surface``)."""

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Publish a message."""

    async def subscribe_answers(self, inbox: str, cb: Callback) -> Subscription:
        """Subscribe to an inbox for answers."""

    async def subscribe_deliveries(self, subject: str, *, queue: str = "", **options: Any) -> Subscription:
        """Subscribe to what a consumer delivers to."""

    async def move_subscription(self, subscription: Subscription, subject: str) -> bool:
        """Continue a subscription on another subject. False: the subscription has ended."""

    def new_inbox(self) -> str:
        """A subject that no other client uses."""

    def new_id(self) -> str:
        """A name that no other client uses."""

    def own(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Run ``work`` until the connection closes."""


class JetStream(JetStreamContext):
    """nats-py's ``JetStreamContext``; streams, consumers and everything else are managed as there."""

    def __init__(self, connection: JetStreamConnection, **options: Any) -> None:
        super().__init__(_DeliveryClient(connection), **options)  # type: ignore[arg-type] # has what nats-py calls
        self._connection = connection
        self._resetting: set[JetStreamContext._JSI] = set()

    async def publish(  # noqa: PLR0913, PLR0917 # nats-py's own parameters
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float | None = None,  # noqa: ASYNC109 # nats-py's own parameter
        stream: str | None = None,
        headers: dict[str, Any] | None = None,
        msg_ttl: float | None = None,
    ) -> api.PubAck:
        """Store a message once, although the message may be sent several times within ``timeout`` seconds.

        An acknowledgement can be lost with a server. So the message is sent again with the same ``Nats-Msg-Id``, and
        the stream drops the copies (``timeout`` must be shorter than the stream's ``duplicate_window``). An application
        that repeats a publish itself must set that header, to the same value each time. Without the header, a new id is
        used.

        Raises:
            nats.errors.TimeoutError: no acknowledgement; the message may be stored or not.
            nats.js.errors.NoStreamResponseError: no stream had the subject, during the whole time.
            nats.js.errors.APIError: the stream refused the message.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        headers = self._with_id(headers)
        while True:
            left = deadline - loop.time()
            try:
                return await super().publish(subject, payload, min(left, _RESEND_SECONDS), stream, headers, msg_ttl)
            except nats.errors.TimeoutError:
                if loop.time() >= deadline:
                    raise
            except nats.js.errors.NoStreamResponseError:
                if loop.time() + _NO_LEADER_SECONDS >= deadline:
                    raise
                await asyncio.sleep(_NO_LEADER_SECONDS)

    async def publish_async(  # noqa: PLR0913, PLR0917 # nats-py's own parameters
        self,
        subject: str,
        payload: bytes = b"",
        wait_stall: float | None = None,
        stream: str | None = None,
        headers: dict[str, Any] | None = None,
        msg_ttl: float | None = None,
    ) -> asyncio.Future[api.PubAck]:
        """Send a message without waiting; the future has the acknowledgement.

        The message is sent once. An application that repeats it must set ``Nats-Msg-Id``, to the same value each time.
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
        """Bind to a pull consumer. ``fetch`` works across reloads, and messages keep their order."""
        return PullSubscription(await super().pull_subscribe_bind(*args, **options), self._connection)

    async def subscribe_bind(self, *args: Any, **options: Any) -> JetStreamContext.PushSubscription:
        """Bind to a push consumer or an ordered one. Messages arrive across reloads, and keep their order."""
        push = await super().subscribe_bind(*args, **options)
        state = cast(JetStreamContext._JSI, push._sub._jsi)
        # nats-py resets an ordered consumer inside its read loop. A reset that waits there for a hand-over, which waits
        # for the read loop, would be a deadlock.
        state.reset_ordered_consumer = partial(self._reset_ordered_consumer, state)  # type: ignore[method-assign]
        if state._fctask is not None:
            # nats-py looks four times a second, for ever, whether an answer to flow control has come due. Here only
            # while the server waits for an answer: an idle process sleeps.
            state._fctask.cancel()
            state.schedule_flow_control_response = partial(self._schedule_flow_control_answer, state)
        return push

    def _schedule_flow_control_answer(self, state: JetStreamContext._JSI, reply: str) -> None:
        """Answer the server once the application has taken what was delivered so far."""
        is_scheduled = state._fcr is not None
        state._active, state._fcr, state._fcd = True, reply, state._fciseq
        if not is_scheduled:
            self._connection.own(self._answer_flow_control(state), name="tidemark flow control")

    async def _answer_flow_control(self, state: JetStreamContext._JSI) -> None:
        while state._fcr is not None and not state._sub._closed:
            if state._fciseq - state._psub._pending_queue.qsize() >= state._fcd:
                reply, state._fcr = state._fcr, None
                await self._connection.publish(reply)
            else:
                await asyncio.sleep(_POLL_SECONDS)

    async def _reset_ordered_consumer(self, state: JetStreamContext._JSI, _sequence: int | None) -> bool:
        """Replace the consumer in a task of its own. True: nats-py drops the message, which is delivered again."""
        if state not in self._resetting:
            self._resetting.add(state)
            self._connection.own(self._replace_consumer(state), name="tidemark ordered consumer")
        return True

    async def _replace_consumer(self, state: JetStreamContext._JSI) -> None:
        try:
            inbox = self._connection.new_inbox()
            if not await self._connection.move_subscription(cast(Subscription, state._sub), inbox):
                return  # the subscription ended meanwhile
            state._psub._id = state._sub._id
            state._cmeta, state._dseq = None, 1
            request = state._ccreq
            request.deliver_subject = inbox
            request.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
            request.opt_start_seq = state._sseq + 1
            await state.recreate_consumer()
        finally:
            self._resetting.discard(state)


class _DeliveryClient:
    """The client that nats-py's JetStream classes get: their subscriptions are for a consumer's deliveries."""

    def __init__(self, connection: JetStreamConnection) -> None:
        self._connection = connection

    async def subscribe(self, subject: str, **options: Any) -> Subscription:
        return await self._connection.subscribe_deliveries(subject, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class PullSubscription(JetStreamContext.PullSubscription):
    """nats-py's, for which the connection repeats a pull request that was lost with a server."""

    def __init__(self, made: JetStreamContext.PullSubscription, connection: JetStreamConnection) -> None:
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
        """Fetch up to ``batch`` messages within ``timeout`` seconds, as nats-py's ``fetch`` does.

        Raises:
            nats.errors.TimeoutError: no message in time (nats-py itself may raise a bare ``TimeoutError``).
            nats.js.errors.APIError: the stream or consumer is gone, or has no leader (503).
        """
        try:
            return await super().fetch(batch, timeout, heartbeat)
        except nats.errors.TimeoutError:
            raise
        except TimeoutError:
            raise nats.errors.TimeoutError from None


@dataclass(frozen=True, slots=True)
class _PullRequests:
    """The client that a pull subscription gets: everything that it publishes is a pull request, and is remembered."""

    connection: JetStreamConnection
    subscription: Subscription

    async def publish(self, subject: str, payload: bytes, reply: str) -> None:
        send = partial(self.connection.publish, subject, payload, reply)
        self.subscription.last_fetch = send
        await send()
