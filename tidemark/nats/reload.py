"""Moving to the set that is installed now: one move at a time, with a time limit, and only forward if it succeeds."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats.errors

from tidemark.nats.errors import ConnectFailed, OldConnectionBroke, ReloadFailed, SetUnreadable
from tidemark.nats.handover import TransportSwitch
from tidemark.nats.installed_set import InstalledSet, read_installed
from tidemark.nats.subscription import Subscription
from tidemark.nats.transport import DialTarget, Transport, dial_first


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A reload that moved to another set. Digests are lower-case hex, as in ``InstalledSet``."""

    ca_sha256: str
    leaf_sha256: str
    server: str
    """Host and port of the server that the new connection is to."""
    seconds: float
    """From reading the directory to the old connection's end."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the application asked for when it connected."""

    servers: list[str]
    directory: Path
    reload_seconds: float
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
    """The reloads of one connection: one at a time; those asked for while one runs are one next one."""

    terms: Terms
    line: TransportSwitch
    new_wire: Callable[[InstalledSet], Transport]
    new_probe: Callable[[], Subscription]
    """A subscription not made yet, on a subject of its own; see ``TransportSwitch.move_to``."""
    tell: Callable[[Reloaded | ReloadFailed], Awaitable[None]]
    _running: asyncio.Lock = field(default_factory=asyncio.Lock)
    _next: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _ended: bool = False

    async def ask(self) -> None:
        """Read the directory again and, if it holds another set than the one in use, move to it.

        Raises:
            ReloadFailed: it names the step; everything is as it was before.
        """
        if self._ended:
            raise ReloadFailed("closed", "the application closed this connection")
        if self._next is None:
            self._next = asyncio.create_task(self._in_turn(), name="tidemark reload")
            self._tasks.add(self._next)
            self._next.add_done_callback(self._tasks.discard)
        task = self._next
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by the end of the connection; else it is the caller who was cancelled
                raise ReloadFailed("closed", "the application closed this connection") from None
            raise

    async def end(self) -> None:
        """Cancel what runs and refuse what is asked for from now on."""
        self._ended = True
        ending = self._tasks - {asyncio.current_task()}  # it may be an event's callback that closes the connection
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _in_turn(self) -> None:
        try:
            async with self._running:
                # Who asks from here on may know of a set that is newer than the one read below.
                self._next = None
                reloaded = await self._once()
        except ReloadFailed as failed:
            await self.tell(failed)
            raise
        if reloaded is not None:
            await self.tell(reloaded)

    async def _once(self) -> Reloaded | None:
        loop = asyncio.get_running_loop()
        begun, limit = loop.time(), self.terms.reload_seconds
        step = "read"
        try:
            async with asyncio.timeout_at(begun + limit):
                installed = await asyncio.to_thread(read_installed, self.terms.directory)
                if installed == self.line.wire.installed and self.line.wire.is_connected:
                    return None
                step = "connect"
                wire = await self._dial(installed)
            step = "subscribe"
            broke = await self._move_to(wire, begun + limit - loop.time())
        except (SetUnreadable, ConnectFailed, nats.errors.Error, OSError, TimeoutError) as error:
            reason = f"not done within {limit:g} s" if isinstance(error, TimeoutError) else str(error)
            raise ReloadFailed(step, reason) from error
        if broke is not None:
            await self.terms.callbacks["error_cb"](broke)
        return Reloaded(installed.ca_sha256, installed.leaf_sha256, wire.host_and_port, loop.time() - begun)

    async def _dial(self, installed: InstalledSet) -> Transport:
        """Connect to the server of now first, so that interest stays local to it; else to any that takes us."""
        now = self.line.wire
        same = now.same_server()
        others = [DialTarget(url.geturl()) for url in now.servers if same is None or url.geturl() != same.url]
        if self.terms.in_random_order:
            random.shuffle(others)
        targets = [same, *others] if same else others
        wire = await dial_first(lambda: self.new_wire(installed), targets, self.terms.options)
        instead = now.server if wire.server_id == now.server_id else None
        wire.keep(self.terms.options, self.terms.servers, instead=instead)
        return wire

    async def _move_to(self, new: Transport, within: float) -> OldConnectionBroke | None:
        old = self.line.wire
        new.report_to({"error_cb": self.terms.callbacks["error_cb"]})
        try:
            return await self.line.move_to(new, self.new_probe(), within)
        finally:
            if self.line.wire is new:
                new.report_to(self.terms.callbacks)
                await old.retire()
            else:
                await new.retire()
