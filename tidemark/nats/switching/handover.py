"""Replaces the transport under an application's subscriptions without losing or repeating a message.

The order of a hand-over, and why it is safe:

1. Every subscription is made on the new transport too, and the server confirms that it knows them. Each subscription is
   a member of a queue group, so from here on a message arrives by one transport or by the other, never by both. The
   deliveries of JetStream consumers arrive by both; ``dedup`` delivers each of them once.
2. Publishing pauses. The old transport unsubscribes everything and asks for a confirmation. A server answers in order,
   so the confirmation proves three things: everything published by this transport was processed, no further message
   will be routed to it, and every message routed to it before has been read.
3. Publishing continues on the new transport, so the server sees the messages in the application's order.
4. The new transport is confirmed once more: what the server sent by it before step 2 has been read too. Then the
   deliveries that were held back for their order are released.

Until step 2, a failure is undone: the new transport unsubscribes and confirms in the same way, and the old one has
never stopped. From step 2 on there is no way back.
"""

import asyncio

import nats.errors

from tidemark.nats.errors import OldConnectionBroke
from tidemark.nats.subscription import Subscription
from tidemark.nats.switching.dedup import Deduplicator
from tidemark.nats.switching.transport import Transport

_LEAVE_SECONDS = 2.0  # the longest that publishing pauses for an old transport whose server does not answer
_PROPAGATION_SECONDS = 0.25  # the longest wait for a cluster to tell its servers of new subscriptions
_PROBE_SECONDS = 0.01  # between two probes


class TransportSwitch:
    """Carries an application's traffic on one transport at a time, or on two during ``move_to``."""

    def __init__(self, transport: Transport) -> None:
        self.current = transport
        """The transport in use."""
        self.subscriptions: dict[int, Subscription] = {}
        transport.attach(self.subscriptions)
        self._moving = asyncio.Lock()
        self._paused: asyncio.Event | None = None

    async def publish(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Publish on the transport in use; waits for the milliseconds between two transports."""
        while self._paused is not None:
            await self._paused.wait()
        await self.current.publish(subject, payload, reply, headers)

    async def add(self, subscription: Subscription) -> None:
        """Subscribe; as in nats-py, the server has confirmed it only after ``confirm``."""
        async with self._moving:
            self.subscriptions[subscription.sid] = subscription
            await self.current.subscribe_on_server(subscription)

    async def move(self, subscription: Subscription, sid: int, subject: str) -> bool:
        """Unsubscribe, and subscribe to another subject; confirmed after ``confirm``. False: it has ended."""
        async with self._moving:
            if self.subscriptions.pop(subscription.sid, None) is None:
                return False
            await self.current.unsubscribe_on_server(subscription.sid)
            subscription.move(sid, subject)
            self.subscriptions[sid] = subscription
            await self.current.subscribe_on_server(subscription)
            return True

    async def unsubscribe(self, sid: int, limit: int) -> None:
        """Unsubscribe, at once (``limit`` 0) or after ``limit`` messages; confirmed after ``confirm``."""
        async with self._moving:
            if limit and sid in self.subscriptions:
                self.subscriptions[sid].limit_to(limit)
            await self.current.unsubscribe_on_server(sid, limit)

    async def confirm(self, within: float) -> None:
        """See ``Transport.confirm``."""
        async with self._moving:
            await self.current.confirm(within)

    async def move_to(self, new: Transport, probe: Subscription, within: float) -> OldConnectionBroke | None:
        """Hand everything over to ``new``, which is connected; the caller closes the old transport.

        ``probe`` is a subscription not made yet, on a subject of its own, for a new transport to another server.
        ``within`` is how many seconds the new transport has to confirm.

        Returns:
            What happened, where the old transport broke in step 2.

        Raises:
            TimeoutError, nats.errors.Error: the new transport did not confirm; the old one is in use, as before.
        """
        async with self._moving:
            dedup, old = Deduplicator(), self.current
            old.dedup_as_old(dedup)
            new.dedup_as_new(dedup)
            try:
                await self._join(new, probe, within)
                broke = await self._switch_publishing(new)
                await _confirm_new(new)
            finally:
                # Also after a cancellation: what is held back is delivered, or it would be lost.
                old.dedup_as_old(None)
                if self.current is new:
                    await dedup.release(new.deliver)
        return broke

    async def _join(self, new: Transport, probe: Subscription, within: float) -> None:
        # Step 1.
        new.attach(self.subscriptions)
        try:
            async with asyncio.timeout(within):
                for subscription in list(self.subscriptions.values()):
                    await new.subscribe_on_server(subscription)
                await new.confirm(within)
            if new.server_id != self.current.server_id and self.current.is_connected:
                await self._await_propagation(new, probe)
        except BaseException:
            await self._leave(new)
            raise

    async def _await_propagation(self, new: Transport, probe: Subscription) -> None:
        """Wait until the old server knows of the subscriptions on the new one: servers tell each other in order.

        Some clusters never deliver the probe (permissions may forbid it); those have had the time limit to propagate.
        """
        self.subscriptions[probe.sid] = probe
        await new.subscribe_on_server(probe)
        loop = asyncio.get_running_loop()
        until = loop.time() + _PROPAGATION_SECONDS
        while probe.delivered == 0 and loop.time() < until:
            await self.current.publish(probe.subject)
            await asyncio.sleep(_PROBE_SECONDS)
        del self.subscriptions[probe.sid]
        await new.unsubscribe_on_server(probe.sid)

    async def _switch_publishing(self, new: Transport) -> OldConnectionBroke | None:
        # Steps 2 and 3. The new transport is in use at the end, even where the old one breaks.
        old = self.current
        self._paused = asyncio.Event()
        try:
            if old.is_connected:
                return await self._leave(old)
            old.stop_reconnecting()
            return None
        finally:
            new.adopt_unsent(old)
            self.current = new
            self._paused.set()
            self._paused = None

    async def _leave(self, transport: Transport) -> OldConnectionBroke | None:
        """Unsubscribe everything on the transport and wait until every message routed to it has been read."""
        try:
            for sid in list(self.subscriptions):
                await transport.unsubscribe_on_server(sid)
            await transport.confirm(_LEAVE_SECONDS)
        except (TimeoutError, nats.errors.Error, OSError) as error:
            return OldConnectionBroke(str(error) or type(error).__name__)
        finally:
            transport.detach()
        return None


async def _confirm_new(new: Transport) -> None:
    # Step 4. A transport that breaks here reconnects by itself, and delivers nothing more that was sent before.
    try:
        await new.confirm(_LEAVE_SECONDS)
    except (TimeoutError, nats.errors.Error):
        return
