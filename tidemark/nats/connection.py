"""The connection that an application holds, while ``reload`` replaces the transport under it."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import nats.errors
from nats.aio.client import _validate_queue, _validate_subject
from nats.aio.msg import Msg

from tidemark.nats.background import BackgroundTasks
from tidemark.nats.client_surface import ClientSurface
from tidemark.nats.errors import ReloadFailed
from tidemark.nats.installed_set import InstalledSet, read_installed
from tidemark.nats.jetstream import JetStream
from tidemark.nats.reload import Reloads, Terms
from tidemark.nats.reload_report import OnReload, OnReloadFailed, ReloadReporter
from tidemark.nats.subscription import Callback, Subscription
from tidemark.nats.switching.dial import dial_first
from tidemark.nats.switching.handover import TransportSwitch
from tidemark.nats.switching.request_mux import RequestMux
from tidemark.nats.switching.transport import DialTarget, Transport

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tidemark.nats.metrics import Metrics

log = logging.getLogger(__name__)

_CALLBACKS = ("error_cb", "disconnected_cb", "reconnected_cb", "closed_cb", "discovered_server_cb", "lame_duck_mode_cb")


async def connect(  # noqa: PLR0913 # one name for each choice of the application
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

    ``nats_options`` are those of ``nats.connect`` except ``tls``: the directory says what to trust and to present. Each
    server is tried once; after that the connection reconnects for ever, unless the options say otherwise.
    ``reload_timeout`` (seconds) limits each ``reload``.

    ``on_reload`` gets a ``Reloaded`` after each move to another set. ``on_reload_failed`` gets a ``ReloadFailed`` after
    each reload that failed; without this callback the failure is logged. Exceptions of either go to ``error_cb``.
    ``registry`` gets the metrics, and needs prometheus_client.

    Raises:
        SetUnreadable: the directory holds no whole set.
        ConnectFailed: every server failed; the error has the reason of each (a ``nats.errors.NoServersError``).
        TypeError: ``tls`` is among the options.
    """
    if "tls" in nats_options:
        raise TypeError("tls: expected no ssl context of your own, as directory= says what to trust and to present")
    directory = Path(directory)
    servers = [servers] if isinstance(servers, str) else list(servers)
    options = {name: value for name, value in nats_options.items() if name not in _CALLBACKS}
    callbacks = {name: nats_options[name] for name in _CALLBACKS if nats_options.get(name)}
    terms = Terms(servers, directory, reload_timeout, options, {"error_cb": _log_error} | callbacks)
    installed = await asyncio.to_thread(read_installed, directory)
    reporter = ReloadReporter(
        on_reload, on_reload_failed or _log_failure, terms.callbacks["error_cb"], _metrics(registry, options)
    )
    connection = Connection(terms, reporter)
    await connection._open(installed)
    return connection


def _metrics(registry: "CollectorRegistry | None", options: dict[str, Any]) -> "Metrics | None":
    if registry is None:
        return None
    # Imported only here: an application without metrics need not have prometheus_client.
    from tidemark.nats.metrics import Metrics  # noqa: PLC0415

    return Metrics(registry, options.get("name") or "")


class Connection(ClientSurface):
    """nats-py's client over a transport that ``reload`` replaces; subscriptions and JetStream handles stay valid.

    Promised across reloads:

    - JetStream messages arrive in order, none is lost, none is repeated;
    - core messages, with a queue group or without, are neither lost nor repeated;
    - a request in flight gets its answer;
    - an answer or an acknowledgement goes through the transport of that moment.

    Made by ``connect``. More methods than elsewhere in this project: applications replace ``nats.connect`` by
    ``tidemark.nats.connect``, so this class has what they use of nats-py's client.
    """

    def __init__(self, terms: Terms, reporter: ReloadReporter) -> None:
        super().__init__(terms.callbacks["error_cb"], terms.options.get("inbox_prefix", "_INBOX"))
        self._callbacks = terms.callbacks
        """The application's own."""
        own_callbacks = {"closed_cb": self._closed, "reconnected_cb": self._reconnected}
        self._terms = replace(terms, callbacks=terms.callbacks | own_callbacks)
        self._reporter = reporter
        self._reloads: Reloads
        self._requests = RequestMux(self.new_inbox())
        self._tasks = BackgroundTasks(self._error_cb)
        self._closing = False
        self._ended = False

    async def _open(self, installed: InstalledSet) -> None:
        targets = [DialTarget(server) for server in self._terms.servers]
        if self._terms.in_random_order:
            random.shuffle(targets)
        transport = await dial_first(lambda: self._new_transport(installed), targets, self._terms.options)
        transport.enable_reconnect(self._terms.options, self._terms.servers, instead=None)
        self._switch = TransportSwitch(transport)
        self._reloads = Reloads(
            terms=self._terms,
            switch=self._switch,
            new_transport=self._new_transport,
            new_probe=lambda: self._subscription(self.new_inbox()),
            reporter=self._reporter,
        )
        transport.report_to(self._terms.callbacks)
        await self.subscribe_answers(self._requests.subject, self._requests.receive)
        self._reporter.connected(installed)

    def _new_transport(self, installed: InstalledSet) -> Transport:
        return Transport(self, self._terms.directory, installed)

    # -- the set in use, and moving to the next one

    @property
    def directory(self) -> Path:
        """The agent's output directory."""
        return self._terms.directory

    @property
    def ca_sha256(self) -> str:
        """SHA-256 of the bytes of the ``ca.crt`` that the present TLS session was made with, in lower-case hex."""
        return self._switch.current.installed.ca_sha256

    @property
    def leaf_sha256(self) -> str:
        """SHA-256 of the DER of the leaf that the present TLS session was made with, in lower-case hex."""
        return self._switch.current.installed.leaf_sha256

    async def reload(self) -> None:
        """Read the directory again and, if another set is installed, move to a new transport that uses that set.

        Returns once the new transport is in use and the old one is closed. Calls during a reload wait together for one
        more reload. ``reload_timeout`` limits the steps that can be undone; closing the old transport may take a few
        seconds more where its server hangs.

        Raises:
            ReloadFailed: the error names the step that failed; the connection is as it was before.
        """
        await self._reloads.request()

    def own(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Run ``work`` until the connection closes, which cancels it; an exception of it goes to ``error_cb``."""
        self._tasks.start(work, name=name)

    # -- messages

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Publish; the message is sent soon, and in order. ``flush`` waits until the server has processed it."""
        await self._switch.publish(subject, payload, reply, headers)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 # nats-py's own parameter
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Publish and wait ``timeout`` seconds for the first answer, which may arrive after a reload.

        Raises:
            nats.errors.NoRespondersError: the subject has no subscriber.
            nats.errors.TimeoutError: no answer in time.
        """

        async def send(reply: str) -> None:
            await self.publish(subject, payload, reply=reply, headers=headers)

        return await self._requests.request(self.new_id(), send, timeout)

    async def subscribe(
        self, subject: str, queue: str = "", cb: Callback | None = None, **options: int
    ) -> Subscription:
        """Subscribe; messages go to ``cb`` or, without one, to ``messages`` and ``next_msg`` of the subscription.

        ``options`` are nats-py's: ``max_msgs``, ``pending_msgs_limit``, ``pending_bytes_limit``.

        Raises:
            nats.errors.BadSubjectError: a subject or a queue group that NATS does not allow.
            nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError: the connection is ending.
        """
        self._refuse_if_ending()
        if queue:
            _validate_queue(queue)
        _validate_subject(subject, strict=True)
        group = {} if queue else {"private_group": self.new_id()}
        return await self._add(self._subscription(subject, queue=queue, cb=cb, **group, **options))

    async def subscribe_answers(self, inbox: str, cb: Callback) -> Subscription:
        """Subscribe to an inbox for answers; during a reload an answer may arrive twice, and only the first counts."""
        return await self._add(self._subscription(inbox, cb=cb))

    async def subscribe_deliveries(self, subject: str, *, queue: str = "", **options: Any) -> Subscription:
        """Subscribe to what a JetStream consumer delivers to; with a queue group, order is not promised."""
        self._refuse_if_ending()
        return await self._add(self._subscription(subject, queue=queue, in_stream_order=not queue, **options))

    async def move_subscription(self, subscription: Subscription, subject: str) -> bool:
        """Continue a subscription on another subject. False: the subscription has ended."""
        return await self._switch.move(subscription, self._next_sid(), subject)

    async def _add(self, subscription: Subscription) -> Subscription:
        subscription.start(self._error_cb)
        await self._switch.add(subscription)
        return subscription

    def _subscription(self, subject: str, **options: Any) -> Subscription:
        return Subscription(self, self._next_sid(), subject, **options)

    def jetstream(self, **options: Any) -> JetStream:
        """JetStream, with nats-py's options (``prefix``, ``domain``, ``timeout``); stays valid across reloads."""
        return JetStream(self, **options)

    # -- the end

    async def flush(self, timeout: float = 10) -> None:  # noqa: ASYNC109 # nats-py's own parameter
        """Wait until the server has processed everything that was sent.

        Raises:
            nats.errors.FlushTimeoutError: no answer in ``timeout`` seconds.
            nats.errors.Error: there is no server at the moment.
        """
        try:
            await self._switch.confirm(timeout)
        except TimeoutError:
            raise nats.errors.FlushTimeoutError from None

    async def drain(self) -> None:
        """Unsubscribe, let the callbacks process what has arrived, send what is waiting, close.

        Raises:
            nats.errors.ConnectionReconnectingError: there is no server at the moment.
            nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError: the connection is ending already.
        """
        self._refuse_if_ending()
        if not self.is_connected:
            raise nats.errors.ConnectionReconnectingError
        await self._end_own_work()
        await self._switch.current.drain()

    async def close(self) -> None:
        """Close at once; messages that wait in subscriptions are not processed."""
        await self._end_own_work()
        await self._switch.current.retire()
        await self._closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _end_own_work(self) -> None:
        # Reloads first: one that is under way would replace the transport that is about to close.
        self._closing = True
        await self._reloads.end()
        await self._tasks.end()

    async def _reconnected(self) -> None:
        # A pull request may have died with the server, and the fetch would wait for nothing until its time-out. Made
        # again, it may bring more than was asked for: the next fetch finds it here.
        for subscription in list(self._switch.subscriptions.values()):
            if subscription.is_waited_for and subscription.last_fetch is not None:
                await subscription.last_fetch()
        if "reconnected_cb" in self._callbacks:
            await self._callbacks["reconnected_cb"]()

    async def _closed(self) -> None:
        """End everything, once: called by ``close``, or by the transport where nats-py gives up or has drained."""
        if self._ended:
            return
        self._ended = True
        self._tasks.cancel()
        for subscription in self._switch.subscriptions.values():
            subscription.stop()
        self._switch.subscriptions.clear()
        self._requests.close()
        if "closed_cb" in self._callbacks:
            await self._callbacks["closed_cb"]()

    def _refuse_if_ending(self) -> None:
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self._closing or self.is_draining:
            raise nats.errors.ConnectionDrainingError


async def _log_error(error: Exception) -> None:
    log.error("nats error", exc_info=error)


async def _log_failure(failed: ReloadFailed) -> None:
    log.error("%s", failed)
