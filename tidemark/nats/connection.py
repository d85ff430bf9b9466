"""The connection that an application holds on to, whatever wire is behind it."""

import asyncio
import logging
import random
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import ServerVersion, _validate_queue, _validate_subject
from nats.aio.msg import Msg
from nats.nuid import NUID

from tidemark.nats.directory import InstalledSet, read_installed
from tidemark.nats.errors import ConnectFailed, OldConnectionBroke, ReloadFailed, SetUnreadable
from tidemark.nats.jetstream import JetStream
from tidemark.nats.line import Line
from tidemark.nats.subscription import Callback, Subscription
from tidemark.nats.wire import Target, Wire, dial_first

log = logging.getLogger(__name__)

_EVENTS = ("error_cb", "disconnected_cb", "reconnected_cb", "closed_cb", "discovered_server_cb", "lame_duck_mode_cb")
_NO_RESPONDERS = "503"


async def connect(
    servers: str | list[str], *, directory: str | Path, reload_timeout: float = 5.0, **nats_options: Any
) -> "Connection":
    """Connect with the set that the agent has installed in ``directory``.

    Takes nats-py's options except ``tls``, which the directory says. By default it reconnects for ever. Each server is
    tried once before it gives up; ``reload_timeout`` is in seconds.

    Raises:
        SetUnreadable: the directory holds no whole set.
        ConnectFailed: no server took us; it has the reason of each (a ``nats.errors.NoServersError``).
    """
    if "tls" in nats_options:
        raise TypeError("tls: expected no ssl context of your own, as directory= says what to trust and to present")
    directory = Path(directory)
    servers = [servers] if isinstance(servers, str) else list(servers)
    installed = await asyncio.to_thread(read_installed, directory)
    connection = Connection(servers, directory, reload_timeout, nats_options)
    await connection._open(installed)
    return connection


class Connection:
    """nats-py's surface over a wire that ``reload`` replaces. Subscriptions and JetStream handles live on with it.

    What is promised across swaps: JetStream in order, nothing lost, nothing twice; core subscriptions, with a queue
    group or without, nothing lost and nothing twice; requests in flight get their answer; messages are answered and
    acknowledged by the connection of that moment. Made by ``connect``.
    """

    def __init__(
        self, servers: list[str], directory: Path, reload_timeout: float, nats_options: dict[str, Any]
    ) -> None:
        self._servers = servers
        self._directory = directory
        self._reload_timeout = reload_timeout
        self._options = {name: value for name, value in nats_options.items() if name not in _EVENTS}
        self._events = {name: nats_options[name] for name in _EVENTS if nats_options.get(name)}
        self._events.setdefault("error_cb", _log_error)
        self._when_closed = self._events.get("closed_cb")
        self._events["closed_cb"] = self._closed
        prefix = nats_options.get("inbox_prefix", "_INBOX")
        # These names are nats-py's: its JetStream classes use them.
        self._error_cb = self._events["error_cb"]
        self._inbox_prefix = bytearray(prefix.encode() if isinstance(prefix, str) else prefix)
        self._nuid = NUID()
        self._sid = 0
        self._line: Line
        self._reply_prefix = f"{self.new_inbox()}."
        self._replies: dict[str, asyncio.Future[Msg]] = {}
        self._reloading = asyncio.Lock()
        self._next_reload: asyncio.Task[None] | None = None
        self._reloads: set[asyncio.Task[None]] = set()
        self._closing = False
        self._ended = False

    async def _open(self, installed: InstalledSet) -> None:
        targets = [Target(server) for server in self._servers]
        if not self._options.get("dont_randomize"):
            random.shuffle(targets)
        wire = await dial_first(lambda: Wire(self, self._directory, installed), targets, self._options)
        wire.keep(self._options, self._servers, instead=None)
        self._line = Line(wire)
        wire.report_to(self._events)
        await self.subscribe_answers(f"{self._reply_prefix}*", self._answered)

    # -- what it uses

    @property
    def ca_sha256(self) -> str:
        """SHA-256 of the bytes of the ``ca.crt`` that the present TLS session was made with, in lower-case hex."""
        return self._line.wire.installed.ca_sha256

    @property
    def leaf_sha256(self) -> str:
        """SHA-256 of the DER of the leaf that the present TLS session was made with, in lower-case hex."""
        return self._line.wire.installed.leaf_sha256

    # -- reload

    async def reload(self) -> None:
        """Read the directory again and, if it holds another set, move to a new connection that uses it.

        Calls coalesce: while one runs, any number of others wait for a single next one. Returns when the new
        connection is in use and the old one is closed. A reload has ``reload_timeout`` seconds to get to where there is
        no way back; taking leave of a server that hangs may take some more.

        Raises:
            ReloadFailed: it names the step; the connection is as it was before.
        """
        if self._closing or self.is_closed:
            raise ReloadFailed("closed", "the application closed this connection")
        if self._next_reload is None:
            self._next_reload = asyncio.create_task(self._reload_in_turn(), name="tidemark reload")
            self._reloads.add(self._next_reload)
            self._next_reload.add_done_callback(self._reloads.discard)
        task = self._next_reload
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by close or drain; else it is the caller who was cancelled
                raise ReloadFailed("closed", "the application closed this connection") from None
            raise

    async def _reload_in_turn(self) -> None:
        async with self._reloading:
            # Who calls from here on may know of a set that is newer than the one read below.
            self._next_reload = None
            await self._reload_once()

    async def _reload_once(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._reload_timeout
        step = "read"
        try:
            async with asyncio.timeout_at(deadline):
                installed = await asyncio.to_thread(read_installed, self._directory)
                if installed == self._line.wire.installed and self.is_connected:
                    return
                step = "connect"
                wire = await self._dial_again(installed)
            step = "subscribe"
            broke = await self._move_to(wire, deadline - loop.time())
        except (SetUnreadable, ConnectFailed, nats.errors.Error, OSError, TimeoutError) as error:
            reason = f"not done within {self._reload_timeout:g} s" if isinstance(error, TimeoutError) else str(error)
            raise ReloadFailed(step, reason) from error
        if broke is not None:
            await self._error_cb(broke)

    async def _dial_again(self, installed: InstalledSet) -> Wire:
        """Connect to the server of now first, so that interest stays local to it; else to any that takes us."""
        now = self._line.wire
        same = now.same_server()
        others = [Target(url.geturl()) for url in now.servers if same is None or url.geturl() != same.url]
        if not self._options.get("dont_randomize"):
            random.shuffle(others)
        targets = [same, *others] if same else others
        wire = await dial_first(lambda: Wire(self, self._directory, installed), targets, self._options)
        wire.keep(self._options, self._servers, instead=now.server if wire.server_id == now.server_id else None)
        return wire

    async def _move_to(self, new: Wire, within: float) -> OldConnectionBroke | None:
        old = self._line.wire
        new.report_to({"error_cb": self._error_cb})
        try:
            return await self._line.move_to(new, self._subscription(self.new_inbox()), within)
        finally:
            if self._line.wire is new:
                new.report_to(self._events)
                await old.retire()
            else:
                await new.retire()

    # -- messages

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Publish; sent soon, and in order. ``flush`` waits until the server has it."""
        await self._line.publish(subject, payload, reply, headers)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 # nats-py's own parameter
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Publish and wait ``timeout`` seconds for the first answer, which may come in after a swap.

        Raises:
            nats.errors.NoRespondersError: nobody subscribes to the subject.
            nats.errors.TimeoutError: no answer in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        token = self.new_id()
        answered = self._replies[token] = loop.create_future()
        try:
            # Twice, as nats-py swallows a cancellation that reaches it while it kicks the flusher.
            async with asyncio.timeout_at(deadline):
                await self.publish(subject, payload, reply=self._reply_prefix + token, headers=headers)
            async with asyncio.timeout_at(deadline):
                answer: Msg = await answered
        except TimeoutError:
            raise nats.errors.TimeoutError from None
        finally:
            del self._replies[token]
        if answer.headers and answer.headers.get("Status") == _NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return answer

    async def _answered(self, message: Msg) -> None:
        answered = self._replies.get(message.subject.removeprefix(self._reply_prefix))
        if answered is not None and not answered.done():
            answered.set_result(message)

    async def subscribe(
        self, subject: str, queue: str = "", cb: Callback | None = None, **options: int
    ) -> Subscription:
        """Subscribe; messages go to ``cb`` or, without one, to ``messages`` and ``next_msg`` of what it returns.

        ``options`` are nats-py's: ``max_msgs``, ``pending_msgs_limit``, ``pending_bytes_limit``.
        """
        self._refuse_if_ending()
        if queue:
            _validate_queue(queue)
        _validate_subject(subject, strict=True)
        return await self._add(self._subscription(subject, queue=queue, cb=cb, **options))

    async def subscribe_answers(self, inbox: str, cb: Callback) -> Subscription:
        """Subscribe to an inbox where an answer may come in twice during a swap, as only the first one counts."""
        return await self._add(self._subscription(inbox, cb=cb, private_group=""))

    async def _add(self, subscription: Subscription) -> Subscription:
        subscription.start(self._error_cb)
        await self._line.add(subscription)
        return subscription

    def _subscription(self, subject: str, **options: Any) -> Subscription:
        self._sid += 1
        return Subscription(self, self._sid, subject, **({"private_group": self.new_id()} | options))

    def jetstream(self, **options: Any) -> JetStream:
        """JetStream, with nats-py's options (``prefix``, ``domain``, ``timeout``); stays valid across swaps."""
        return JetStream(self, **options)

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return f"{self._inbox_prefix.decode()}.{self.new_id()}"

    def new_id(self) -> str:
        """A name that nobody else uses."""
        return self._nuid.next().decode()

    async def flush(self, timeout: float = 10) -> None:  # noqa: ASYNC109 # nats-py's own parameter
        """Wait until the server has processed all that was sent.

        Raises:
            nats.errors.FlushTimeoutError: no answer in ``timeout`` seconds.
            nats.errors.Error: there is no server at the moment.
        """
        try:
            await self._line.confirm(timeout)
        except TimeoutError:
            raise nats.errors.FlushTimeoutError from None

    async def drain(self) -> None:
        """Unsubscribe, let the callbacks finish what has come in, send what is waiting, close.

        Raises:
            nats.errors.ConnectionReconnectingError: there is no server at the moment.
        """
        self._refuse_if_ending()
        if not self.is_connected:
            raise nats.errors.ConnectionReconnectingError
        await self._end_reloads()
        await self._line.wire.drain()

    async def close(self) -> None:
        """Close at once; what waits in subscriptions is not processed."""
        await self._end_reloads()
        await self._line.wire.retire()
        await self._closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _end_reloads(self) -> None:
        self._closing = True
        for reload in self._reloads:
            reload.cancel()
        await asyncio.gather(*self._reloads, return_exceptions=True)

    async def _closed(self) -> None:
        if self._ended:
            return
        self._ended = True
        for subscription in self._line.subscriptions.values():
            subscription.stop()
        self._line.subscriptions.clear()
        for answered in self._replies.values():
            if not answered.done():
                answered.set_exception(nats.errors.ConnectionClosedError())
        if self._when_closed is not None:
            await self._when_closed()

    def _refuse_if_ending(self) -> None:
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self._closing or self.is_draining:
            raise nats.errors.ConnectionDrainingError

    # -- what nats-py's properties say of the wire in use

    @property
    def is_connected(self) -> bool:
        """Whether there is a server at the moment."""
        return self._line.wire.is_connected

    @property
    def is_closed(self) -> bool:
        """Whether it is closed for good."""
        return self._line.wire.is_closed

    @property
    def is_reconnecting(self) -> bool:
        """Whether it lost its server and looks for another."""
        return self._line.wire.is_reconnecting

    @property
    def is_draining(self) -> bool:
        """Whether ``drain`` was called."""
        return self._line.wire.is_draining

    @property
    def connected_url(self) -> ParseResult | None:
        """The server's URL, None without a server."""
        return self._line.wire.connected_url

    @property
    def connected_server_version(self) -> ServerVersion:
        """The server's version."""
        return self._line.wire.connected_server_version

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, in bytes."""
        return self._line.wire.max_payload

    # -- what nats-py's Subscription and JetStream classes call on a connection of theirs

    @property
    def _subs(self) -> dict[int, Subscription]:
        return self._line.subscriptions

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._line.subscriptions.pop(sid, None)

    async def _send_unsubscribe(self, sid: int, limit: int = 0) -> None:
        await self._line.unsubscribe(sid, limit)

    async def _send_subscribe(self, subscription: Subscription) -> None:
        await self._line.add(subscription)


async def _log_error(error: Exception) -> None:
    log.error("nats error", exc_info=error)
