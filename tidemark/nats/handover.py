"""The wire in use and the subscriptions on it; the wire is replaced without losing a message.

The order of a hand-over, and why nothing is lost and nothing comes twice:

1. Every subscription is made on the new wire too, and the server confirms that it knows them. Each is a member of a
   queue group, so from here on a message comes in by one wire or by the other, never by both; what JetStream consumers
   deliver comes in by both, and ``overlap`` lets it pass once.
2. Publishing pauses. The old wire unsubscribes everything and asks for a confirmation, which is proof of three things:
   what was published by it has been processed, no message will be routed to it any more, and all that had been routed
   to it before has been read (a server answers in order).
3. Publishing goes on by the new wire, so the server sees it in the application's order.
4. The new wire is confirmed once more: what the server sent by it before 2 has been read too. Now the deliveries that
   were kept back for their order pass.

Until 2, a failure goes back: the new wire unsubscribes and confirms, the same way, and the old one has never stopped.
From 2 on it goes forward.
"""

import asyncio

import nats.errors

from tidemark.nats.dedup import Deduplicator
from tidemark.nats.errors import OldConnectionBroke
from tidemark.nats.subscription import Subscription
from tidemark.nats.transport import Transport

_LEAVING = 2.0  # seconds that publishing may pause for an old wire that does not answer
_SPREADING = 0.25  # seconds for a cluster to tell its servers of new interest
_ASKING = 0.01  # seconds between two probes


class TransportSwitch:
    """Carries an application's traffic by one wire at a time, or by two during ``move_to``."""

    def __init__(self, wire: Transport) -> None:
        self.wire = wire
        self.subscriptions: dict[int, Subscription] = {}
        wire.adopt(self.subscriptions)
        self._moving = asyncio.Lock()
        self._paused: asyncio.Event | None = None

    async def publish(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Send by the wire in use; waits for the milliseconds between two wires."""
        while self._paused is not None:
            await self._paused.wait()
        await self.wire.publish(subject, payload, reply, headers)

    async def add(self, subscription: Subscription) -> None:
        """Subscribe; like nats-py's, not confirmed before ``confirm``."""
        async with self._moving:
            self.subscriptions[subscription.sid] = subscription
            await self.wire.subscribe_on_server(subscription)

    async def move(self, subscription: Subscription, sid: int, subject: str) -> bool:
        """Unsubscribe, and subscribe to another subject; not confirmed before ``confirm``. False: it has ended."""
        async with self._moving:
            if self.subscriptions.pop(subscription.sid, None) is None:
                return False
            await self.wire.unsubscribe_on_server(subscription.sid)
            subscription.move(sid, subject)
            self.subscriptions[sid] = subscription
            await self.wire.subscribe_on_server(subscription)
            return True

    async def unsubscribe(self, sid: int, limit: int) -> None:
        """Unsubscribe, or ask for it after ``limit`` messages; like nats-py's, not confirmed before ``confirm``."""
        async with self._moving:
            if limit and sid in self.subscriptions:
                self.subscriptions[sid].limit_to(limit)
            await self.wire.unsubscribe_on_server(sid, limit)

    async def confirm(self, within: float) -> None:
        """See ``Transport.confirm``."""
        async with self._moving:
            await self.wire.confirm(within)

    async def move_to(self, new: Transport, probe: Subscription, within: float) -> OldConnectionBroke | None:
        """Hand everything over to ``new``, which is connected; the old wire is left for the caller to shut.

        ``probe`` is a subscription not made yet, on a subject of its own, for where the new server is another one;
        ``within`` are the seconds that the new wire has to confirm.

        Returns:
            What happened where the old wire broke in step 2.

        Raises:
            TimeoutError, nats.errors.Error: the new wire did not confirm; the old one is in use, as before.
        """
        async with self._moving:
            overlap, old = Deduplicator(), self.wire
            old.hands_over(overlap)
            new.takes_over(overlap)
            try:
                await self._join(new, probe, within)
                broke = await self._switch(new)
                await _settle(new)
            finally:
                old.hands_over(None)
                if self.wire is new:
                    await overlap.end(new.deliver)
        return broke

    async def _join(self, new: Transport, probe: Subscription, within: float) -> None:
        new.adopt(self.subscriptions)
        try:
            async with asyncio.timeout(within):
                for subscription in list(self.subscriptions.values()):
                    await new.subscribe_on_server(subscription)
                await new.confirm(within)
            if new.server_id != self.wire.server_id and self.wire.is_connected:
                await self._spread(new, probe)
        except BaseException:
            await self._leave(new)
            raise

    async def _spread(self, new: Transport, probe: Subscription) -> None:
        """Wait until the old server knows of the new one's subscriptions: servers tell each other in order.

        A cluster that does not pass the probe on in time (permissions may forbid it) has had the time to spread.
        """
        self.subscriptions[probe.sid] = probe
        await new.subscribe_on_server(probe)
        loop = asyncio.get_running_loop()
        until = loop.time() + _SPREADING
        while probe.delivered == 0 and loop.time() < until:
            await self.wire.publish(probe.subject)
            await asyncio.sleep(_ASKING)
        del self.subscriptions[probe.sid]
        await new.unsubscribe_on_server(probe.sid)

    async def _switch(self, new: Transport) -> OldConnectionBroke | None:
        old = self.wire
        self._paused = asyncio.Event()
        try:
            if old.is_connected:
                return await self._leave(old)
            old.give_up()
            return None
        finally:
            new.take_unsent(old)
            self.wire = new
            self._paused.set()
            self._paused = None

    async def _leave(self, wire: Transport) -> OldConnectionBroke | None:
        """Unsubscribe everything on the wire and wait until all that was routed to it has been read."""
        try:
            for sid in list(self.subscriptions):
                await wire.unsubscribe_on_server(sid)
            await wire.confirm(_LEAVING)
        except (TimeoutError, nats.errors.Error, OSError) as error:
            return OldConnectionBroke(str(error) or type(error).__name__)
        finally:
            wire.disown()
        return None


async def _settle(new: Transport) -> None:
    """Step 4. A wire that breaks here reconnects by itself, and delivers nothing more that was sent before."""
    try:
        await new.confirm(_LEAVING)
    except (TimeoutError, nats.errors.Error):
        return
