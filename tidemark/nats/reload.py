"""Moving to the set that is installed now: one move at a time, with a time limit, undone where it fails."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats.errors

from tidemark.nats.errors import ConnectFailed, OldConnectionBroke, ReloadFailed, SetUnreadable
from tidemark.nats.installed_set import InstalledSet, read_installed
from tidemark.nats.reload_report import Reloaded, ReloadReporter
from tidemark.nats.subscription import Subscription
from tidemark.nats.switching.dial import dial_first
from tidemark.nats.switching.handover import TransportSwitch
from tidemark.nats.switching.transport import DialTarget, Transport


@dataclass(frozen=True, slots=True)
class Terms:
    """What the application asked for when it connected."""

    servers: list[str]
    """URLs, in the application's order."""
    directory: Path
    """The agent's output directory."""
    reload_seconds: float
    """The time limit of a reload."""
    options: dict[str, Any]
    """nats-py's, without its callbacks."""
    callbacks: dict[str, Any]
    """nats-py's, by the names of its options; ``error_cb`` is always there."""

    @property
    def in_random_order(self) -> bool:
        """Whether servers are to be tried in any order."""
        return not self.options.get("dont_randomize")


@dataclass(slots=True)
class Reloads:
    """The reloads of one connection: one at a time; all that are requested meanwhile are one next reload.

    Nine fields: five that a reload works with and four for the order of reloads, which end together.
    """

    terms: Terms
    switch: TransportSwitch
    new_transport: Callable[[InstalledSet], Transport]
    """Makes a transport that is not connected yet."""
    new_probe: Callable[[], Subscription]
    """Makes a subscription not made yet, on a subject of its own; see ``TransportSwitch.move_to``."""
    reporter: ReloadReporter
    _running: asyncio.Lock = field(default_factory=asyncio.Lock)
    _next: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _ended: bool = False

    async def request(self) -> None:
        """Read the directory again and, if it holds another set than the one in use, move to it.

        Raises:
            ReloadFailed: the error names the step; everything is as it was before.
        """
        if self._ended:
            raise ReloadFailed("closed", "the application closed this connection")
        if self._next is None:
            self._next = asyncio.create_task(self._run_next(), name="tidemark reload")
            self._tasks.add(self._next)
            self._next.add_done_callback(self._tasks.discard)
        task = self._next
        try:
            # Shielded: others may wait for this reload too.
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by ``end``; otherwise the caller was cancelled
                raise ReloadFailed("closed", "the application closed this connection") from None
            raise

    async def end(self) -> None:
        """Cancel the reload that runs, and refuse every later request."""
        self._ended = True
        ending = self._tasks - {asyncio.current_task()}  # a reload's own callback may be what closes the connection
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _run_next(self) -> None:
        try:
            async with self._running:
                # Before the directory is read: a later request may know of a newer set, and needs a next reload.
                self._next = None
                reloaded = await self._reload()
        except ReloadFailed as failed:
            await self.reporter.report(failed, self.switch.current.installed)
            raise
        if reloaded is not None:
            await self.reporter.report(reloaded, self.switch.current.installed)

    async def _reload(self) -> Reloaded | None:
        """Move to the set that is installed; None where that set is in use already."""
        loop = asyncio.get_running_loop()
        begun, limit = loop.time(), self.terms.reload_seconds
        step = "read"
        try:
            async with asyncio.timeout_at(begun + limit):
                installed = await asyncio.to_thread(read_installed, self.terms.directory)
                if installed == self.switch.current.installed and self.switch.current.is_connected:
                    return None
                step = "connect"
                transport = await self._dial(installed)
            step = "subscribe"
            broke = await self._move_to(transport, begun + limit - loop.time())
        except (SetUnreadable, ConnectFailed, nats.errors.Error, OSError, TimeoutError) as error:
            reason = f"not done within {limit:g} s" if isinstance(error, TimeoutError) else str(error)
            raise ReloadFailed(step, reason) from error
        if broke is not None:
            await self.terms.callbacks["error_cb"](broke)
        return Reloaded(installed.ca_sha256, installed.leaf_sha256, transport.host_and_port, loop.time() - begun)

    async def _dial(self, installed: InstalledSet) -> Transport:
        """Connect to the present server first, so that subscriptions stay local to it; otherwise to any other."""
        present = self.switch.current
        same = present.same_server()
        others = [DialTarget(url.geturl()) for url in present.servers if same is None or url.geturl() != same.url]
        if self.terms.in_random_order:
            random.shuffle(others)
        targets = [same, *others] if same else others
        transport = await dial_first(lambda: self.new_transport(installed), targets, self.terms.options)
        instead = present.server if transport.server_id == present.server_id else None
        transport.enable_reconnect(self.terms.options, self.terms.servers, instead=instead)
        return transport

    async def _move_to(self, new: Transport, within: float) -> OldConnectionBroke | None:
        old = self.switch.current
        # Of the events of a transport that is not in use yet, only its errors concern the application.
        new.report_to({"error_cb": self.terms.callbacks["error_cb"]})
        try:
            return await self.switch.move_to(new, self.new_probe(), within)
        finally:
            if self.switch.current is new:
                new.report_to(self.terms.callbacks)
                await old.retire()
            else:
                await new.retire()
