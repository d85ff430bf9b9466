"""The connection that an application holds on to, whatever wire is behind it."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import ServerVersion, _validate_queue, _validate_subject
from nats.aio.msg import Msg
from nats.nuid import NUID

from tidemark.nats.errors import ReloadFailed
from tidemark.nats.handover import TransportSwitch
from tidemark.nats.installed_set import InstalledSet, read_installed
from tidemark.nats.jetstream import JetStream
from tidemark.nats.reload import Reloaded, Reloads, Terms
from tidemark.nats.request_mux import RequestMux
from tidemark.nats.subscription import Callback, Subscription
from tidemark.nats.transport import DialTarget, Transport, dial_first

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tidemark.nats.metrics import Metrics

log = logging.getLogger(__name__)

OnReload = Callable[[Reloaded], Awaitable[None]]
OnReloadFailed = Callable[[ReloadFailed], Awaitable[None]]
_CALLBACKS = ("error_cb", "disconnected_cb", "reconnected_cb", "closed_cb", "discovered_server_cb", "lame_duck_mode_cb")


async def connect(  # noqa: PLR0913 # one name for each thing that an application may say
    servers: str | list[str],
    *,
    directory: str | Path,
    reload_timeout: float = 5.0,
    on_reload: OnReload | None = None,
    on_reload_failed: OnReloadFailed | None = None,
    registry: "CollectorRegistry | None" = None,
    **nats_options: Any,
) -> "Connection":
    """Connect with the set that the agent has installed in ``directory``.

    Takes nats-py's options except ``tls``, which the directory says. By default it reconnects for ever. Each server is
    tried once before it gives up; ``reload_timeout`` is in seconds.

    ``on_reload`` hears of every move to another set, ``on_reload_failed`` of every reload that failed (by default it is
    logged); what they raise goes to ``error_cb``. Metrics go to ``registry``, which needs prometheus_client.

    Raises:
        SetUnreadable: the directory holds no whole set.
        ConnectFailed: no server took us; it has the reason of each (a ``nats.errors.NoServersError``).
    """
    if "tls" in nats_options:
        raise TypeError("tls: expected no ssl context of your own, as directory= says what to trust and to present")
    directory = Path(directory)
    servers = [servers] if isinstance(servers, str) else list(servers)
    options = {name: value for name, value in nats_options.items() if name not in _CALLBACKS}
    callbacks = {name: nats_options[name] for name in _CALLBACKS if nats_options.get(name)}
    terms = Terms(servers, directory, reload_timeout, options, {"error_cb": _log_error} | callbacks)
    installed = await asyncio.to_thread(read_installed, directory)
    connection = Connection(terms, on_reload, on_reload_failed or _log_failure, _metrics(registry, options))
    await connection._open(installed)
    return connection


def _metrics(registry: "CollectorRegistry | None", options: dict[str, Any]) -> "Metrics | None":
    if registry is None:
        return None
    # Only now: an application without metrics need not have prometheus_client.
    from tidemark.nats.metrics import Metrics  # noqa: PLC0415

    return Metrics(registry, options.get("name") or "")


class Connection:
    """nats-py's surface over a wire that ``reload`` replaces. Subscriptions and JetStream handles live on with it.

    What is promised across swaps: JetStream in order, nothing lost, nothing twice; core subscriptions, with a queue
    group or without, nothing lost and nothing twice; requests in flight get their answer; messages are answered and
    acknowledged by the connection of that moment. Made by ``connect``.
    """

    def __init__(
        self, terms: Terms, on_reload: OnReload | None, on_reload_failed: OnReloadFailed, metrics: "Metrics | None"
    ) -> None:
        self._terms = terms
        self._when_closed = terms.callbacks.get("closed_cb")
        terms.callbacks["closed_cb"] = self._closed
        self._when_reconnected = terms.callbacks.get("reconnected_cb")
        terms.callbacks["reconnected_cb"] = self._reconnected
        self._on_reload = on_reload
        self._on_reload_failed = on_reload_failed
        self._metrics = metrics
        prefix = terms.options.get("inbox_prefix", "_INBOX")
        # These names are nats-py's: its JetStream classes use them.
        self._error_cb = terms.callbacks["error_cb"]
        self._inbox_prefix = bytearray(prefix.encode() if isinstance(prefix, str) else prefix)
        self._nuid = NUID()
        self._sid = 0
        self._line: TransportSwitch
        self._reloads: Reloads
        self._replies = RequestMux(self.new_inbox())
        self._owned: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._ended = False

    async def _open(self, installed: InstalledSet) -> None:
        targets = [DialTarget(server) for server in self._terms.servers]
        if self._terms.in_random_order:
            random.shuffle(targets)
        wire = await dial_first(lambda: self._new_wire(installed), targets, self._terms.options)
        wire.keep(self._terms.options, self._terms.servers, instead=None)
        self._line = TransportSwitch(wire)
        self._reloads = Reloads(
            self._terms, self._line, self._new_wire, lambda: self._subscription(self.new_inbox()), self._tell
        )
        wire.report_to(self._terms.callbacks)
        await self.subscribe_answers(self._replies.subject, self._replies.answered)
        if self._metrics is not None:
            self._metrics.connected(installed)

    def _new_wire(self, installed: InstalledSet) -> Transport:
        return Transport(self, self._terms.directory, installed)

    # -- what it uses

    @property
    def directory(self) -> Path:
        """The agent's output directory."""
        return self._terms.directory

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
        await self._reloads.ask()

    async def _tell(self, outcome: Reloaded | ReloadFailed) -> None:
        if self._metrics is not None:
            self._metrics.count(outcome)
            self._metrics.connected(self._line.wire.installed)
        try:
            if isinstance(outcome, ReloadFailed):
                await self._on_reload_failed(outcome)
            elif self._on_reload is not None:
                await self._on_reload(outcome)
        except Exception as error:  # noqa: BLE001 # the application's own; it is told, as of any callback's
            await self._error_cb(error)

    def own(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Run this beside the connection, which cancels it when it closes; an exception goes to ``error_cb``."""
        task = asyncio.create_task(self._guard(work), name=name)
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)

    async def _guard(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 # whatever it is, the application is told
            await self._error_cb(error)

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

        async def send(reply: str) -> None:
            await self.publish(subject, payload, reply=reply, headers=headers)

        return await self._replies.ask(self.new_id(), send, timeout)

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
        group = {} if queue else {"private_group": self.new_id()}
        return await self._add(self._subscription(subject, queue=queue, cb=cb, **group, **options))

    async def subscribe_answers(self, inbox: str, cb: Callback) -> Subscription:
        """Subscribe to an inbox where an answer may come in twice during a swap, as only the first one counts."""
        return await self._add(self._subscription(inbox, cb=cb))

    async def subscribe_deliveries(self, subject: str, *, queue: str = "", **options: Any) -> Subscription:
        """Subscribe to what a JetStream consumer delivers to; with a queue group, order is not promised."""
        self._refuse_if_ending()
        return await self._add(self._subscription(subject, queue=queue, in_stream_order=not queue, **options))

    async def move_subscription(self, subscription: Subscription, subject: str) -> bool:
        """Let it go on by another subject; False: it has ended."""
        self._sid += 1
        return await self._line.move(subscription, self._sid, subject)

    async def _add(self, subscription: Subscription) -> Subscription:
        subscription.start(self._error_cb)
        await self._line.add(subscription)
        return subscription

    def _subscription(self, subject: str, **options: Any) -> Subscription:
        self._sid += 1
        return Subscription(self, self._sid, subject, **options)

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
        await self._end_own_work()
        await self._line.wire.drain()

    async def close(self) -> None:
        """Close at once; what waits in subscriptions is not processed."""
        await self._end_own_work()
        await self._line.wire.retire()
        await self._closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _end_own_work(self) -> None:
        self._closing = True
        await self._reloads.end()
        ending = self._owned - {asyncio.current_task()}
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _reconnected(self) -> None:
        # A pull request may have died with the server, and the fetch would wait for nothing until its time-out. Made
        # again, it may bring more than was asked for: the next fetch finds it here.
        for subscription in list(self._line.subscriptions.values()):
            if subscription.is_waited_for and subscription.last_fetch is not None:
                await subscription.last_fetch()
        if self._when_reconnected is not None:
            await self._when_reconnected()

    async def _closed(self) -> None:
        if self._ended:
            return
        self._ended = True
        for task in self._owned - {asyncio.current_task()}:
            task.cancel()
        for subscription in self._line.subscriptions.values():
            subscription.stop()
        self._line.subscriptions.clear()
        self._replies.end()
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


async def _log_error(error: Exception) -> None:
    log.error("nats error", exc_info=error)


async def _log_failure(failed: ReloadFailed) -> None:
    log.error("%s", failed)
