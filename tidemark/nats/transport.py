"""One TLS connection to one server: nats-py's client, with what handing over to the next one needs.

Everything that depends on nats-py's insides is here and in ``subscription``; written against 2.16. What is changed:

- ``flush`` proves something. In 2.13.1 to 2.16.0 ``_send_ping`` writes PING to the socket while SUB, UNSUB and PUB
  still wait in ``_pending`` for the flusher, so a PONG says nothing about them, and ``drain`` may lose messages. Here
  what waits is written first, in the same breath. (Flushing twice works around it for the application's own calls, but
  not for the flush inside ``drain``.)
- A PONG for a flush that was given up on no longer ends the read loop.
- The subscriptions are not the wire's own: they belong to the connection and outlive it.
- A server that hangs up during the handshake is an error, instead of a client that is never connected.
- Each reconnect presents the set that is installed by then.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg

from tidemark.nats.dedup import Deduplicator, DeliveredMessage
from tidemark.nats.errors import ConnectFailed, SetUnreadable
from tidemark.nats.installed_set import InstalledSet, read_installed
from tidemark.nats.subscription import Subscription

_NO_PATIENCE = 0.05  # seconds, where there was no TLS session to take leave of
_DIALLING: dict[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}
_LASTING: dict[str, Any] = {"allow_reconnect": True, "max_reconnect_attempts": -1, "reconnect_time_wait": 2}

_UNEXPECTED = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What nats-py comes across in a greeting that no nats-server says."""

_OVERRIDDEN = (
    *("_send_ping", "_process_pong", "_process_op_err", "_close", "_connect_to_server", "_process_connect_init"),
    *("_build_message", "_process_msg"),
)
for _name in _OVERRIDDEN:
    if not hasattr(Client, _name):  # overridden below: without it messages would be lost silently
        raise ImportError(f"nats-py: expected nats.aio.client.Client.{_name}, found none; tidemark.nats needs 2.16")


@dataclass(frozen=True, slots=True)
class DialTarget:
    """A server to dial: where, and the name that its certificate must carry where that is not the URL's host."""

    url: str
    tls_name: str | None = None


class Transport(Client):
    """Not for applications. ``connection`` is what messages answer through, as their wire may be gone by then."""

    def __init__(self, connection: object, directory: Path, installed: InstalledSet) -> None:
        super().__init__()
        self.installed = installed
        """The set that the present TLS session was made with."""
        self._connection = connection
        self._directory = directory
        self._offered = installed
        self._attempts = 0
        self._peer: tuple[Any, ...] | None = None
        self._awaited: set[asyncio.Future[bool]] = set()
        self._handed_on_by: Deduplicator | None = None
        self._taken_over_by: Deduplicator | None = None

    async def dial(self, target: DialTarget, options: dict[str, Any]) -> None:
        """Connect to this one server, once.

        Raises:
            OSError, nats.errors.Error, TimeoutError: what the server or the network said.
        """
        asked = options | _DIALLING
        if target.tls_name and not options.get("tls_hostname"):
            asked["tls_hostname"] = target.tls_name
        # nats-py would try again and again; an error callback that raises is how it is told to let the first one out.
        connecting = self.connect([target.url], error_cb=_raise, tls=self._offered.context, **asked)
        try:
            await connecting
        except (OSError, nats.errors.Error):  # a certificate that does not verify is a ValueError as well
            raise
        except _UNEXPECTED as error:
            raise nats.errors.Error(
                f"nats: expected a server's greeting, found {type(error).__name__}: {error}"
            ) from error

    def keep(self, options: dict[str, Any], servers: list[str], instead: Srv | None) -> None:
        """Reconnect from now on by itself, to the application's servers.

        ``instead`` is the entry of the server as the predecessor knew it, where a bare address was dialled for it.
        """
        lasting = {name: options.get(name, default) for name, default in _LASTING.items()}
        self.options.update(lasting)
        self.options.pop("tls_hostname", None)
        if options.get("tls_hostname"):
            self.options["tls_hostname"] = options["tls_hostname"]
        if instead is not None and self._current_server is not None:
            self._current_server.uri = instead.uri
            self._current_server.tls_name = instead.tls_name
        known = {server.uri.netloc for server in self._server_pool}
        candidates = [Srv(self._parse_server_uri(url)) for url in servers]
        self._server_pool += [server for server in candidates if server.uri.netloc not in known]

    def report_to(self, events: Mapping[str, Any]) -> None:
        """Say who hears of this wire's events, by nats-py's option names; those left out are heard by nobody."""
        self._error_cb = events.get("error_cb", _nobody)
        self._disconnected_cb = events.get("disconnected_cb")
        self._reconnected_cb = events.get("reconnected_cb")
        self._closed_cb = events.get("closed_cb")
        self._discovered_server_cb = events.get("discovered_server_cb")
        self._lame_duck_mode_cb = events.get("lame_duck_mode_cb")

    @property
    def server(self) -> Srv | None:
        """The pool's entry of the server that this wire is, or was last, connected to."""
        return replace(self._current_server) if self._current_server else None

    @property
    def host_and_port(self) -> str:
        """Of that server, without login; empty without one."""
        return self._current_server.uri.netloc.rpartition("@")[2] if self._current_server else ""

    @property
    def server_id(self) -> str:
        """The server's own id: the same behind every name and address of it."""
        return str(self._server_info.get("server_id", ""))

    def same_server(self) -> DialTarget | None:
        """How to dial exactly this server again: by its address, since a name may lead to another one."""
        server, peer = self._current_server, self._peer
        if server is None:
            return None
        if peer is None:
            return DialTarget(server.uri.geturl(), server.tls_name)
        host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
        login, _, _ = server.uri.netloc.rpartition("@")
        netloc = f"{login}@{host}:{peer[1]}" if login else f"{host}:{peer[1]}"
        return DialTarget(server.uri._replace(netloc=netloc).geturl(), server.tls_name or server.uri.hostname)

    # -- subscriptions, which the connection owns

    def adopt(self, subscriptions: dict[int, Subscription]) -> None:
        """From now on deliver to these; the dictionary is shared, not copied."""
        self._subs = subscriptions  # type: ignore[assignment] # nats-py types it by its own, wider, class

    def disown(self) -> None:
        """Deliver to nothing any more."""
        self._subs = {}

    def hands_over(self, overlap: Deduplicator | None) -> None:
        """From now on another wire has the same inboxes and will take over; None: there is no other any more."""
        self._handed_on_by = overlap

    def takes_over(self, overlap: Deduplicator | None) -> None:
        """From now on this wire has the same inboxes as another, which is in use; None: it never will be."""
        self._taken_over_by = overlap

    async def deliver(self, delivery: DeliveredMessage) -> None:
        """Let a delivery pass to its subscription."""
        try:
            await super()._process_msg(*delivery)
        except nats.errors.Error as error:  # the wire broke while an answer to flow control was written to it
            await self._error_cb(error)

    async def subscribe_on_server(self, subscription: Subscription) -> None:
        """Tell the server; not proven before ``confirm``."""
        await self._send_subscribe(subscription)
        if subscription.left:
            await self._send_unsubscribe(subscription.sid, limit=subscription.left)

    async def unsubscribe_on_server(self, sid: int, limit: int = 0) -> None:
        """Tell the server; not proven before ``confirm``."""
        await self._send_unsubscribe(sid, limit=limit)

    def take_unsent(self, other: "Transport") -> None:
        """Take over the publishes that ``other`` buffered while it had no server to send them to."""
        unsent = [command for command in other._pending if command.startswith((b"PUB ", b"HPUB "))]
        other._pending = []
        other._pending_data_size = 0
        self._pending += unsent
        self._pending_data_size += sum(map(len, unsent))

    async def confirm(self, within: float) -> None:
        """Wait until the server has processed all that was sent, and all that it sent before has been delivered.

        Raises:
            TimeoutError: no answer within these seconds.
            nats.errors.Error: the wire broke meanwhile, or was not connected.
        """
        if not self.is_connected:
            raise nats.errors.ConnectionReconnectingError
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        answered: asyncio.Future[bool] = loop.create_future()
        self._awaited.add(answered)
        try:
            # Twice, as nats-py swallows a cancellation that reaches it while it kicks the flusher.
            async with asyncio.timeout_at(deadline):
                await self._send_ping(answered)
            async with asyncio.timeout_at(deadline):
                await answered
        finally:
            self._awaited.discard(answered)

    def give_up(self) -> None:
        """Stop looking for a server: another wire has one."""
        self.disown()
        if self._reconnection_task is not None:
            self._reconnection_task.cancel()

    async def retire(self, patience: float = 1.0) -> None:
        """Close a wire that nobody uses any more, so nobody hears of it either.

        A peer that does not say goodbye within ``patience`` seconds is left without one.
        """
        self.report_to({})
        writers = [getattr(self._transport, name, None) for name in ("_io_writer", "_bare_io_writer")]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.close()
        finally:
            # nats-py closes nothing where it was told to close before, or where TLS had not come about yet.
            for writer in writers:
                if writer is not None:
                    # A TLS transport that has ended already has nothing to abort, which Python 3.11.2 stumbles over.
                    with contextlib.suppress(AttributeError):
                        writer.transport.abort()
        self._let_go()

    def _let_go(self) -> None:
        """Break the circles through this wire: its buffers are far larger than the garbage collector knows."""
        self._transport = None
        self._ps = None  # type: ignore[assignment] # a closed client parses nothing any more
        self._reading_task = self._flusher_task = self._ping_interval_task = self._reconnection_task = None
        self._connection = None
        self.options = {}

    # -- overridden

    async def _send_ping(self, future: "asyncio.Future[bool] | None" = None) -> None:
        if self._pending and self.is_connected and self._transport:
            self._transport.writelines(self._pending)
            self._pending = []
            self._pending_data_size = 0
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _process_op_err(self, e: Exception) -> None:
        self._fail_awaited(e)
        await super()._process_op_err(e)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # nats-py stops every subscription of a client that closes; these live on.
        self.disown()
        self._fail_awaited(nats.errors.ConnectionClosedError())
        if not self.is_connected:  # nobody to send it to: nats-py would write it to the transport that is gone
            self._pending = []
            self._pending_data_size = 0
        await super()._close(status, do_cbs)

    def _fail_awaited(self, error: Exception) -> None:
        for answered in self._awaited:
            if not answered.done():
                answered.set_exception(error)

    async def _connect_to_server(self, s: Srv) -> None:
        """Before every attempt: the set that is installed by now or, every other time, the last one that worked.

        That one no more once a CA of it is withdrawn: whoever has its key could be the server.
        """
        if self._attempts > 0:
            newest = await self._newest()
            self._offered = newest if self._attempts % 2 or newest.withdraws_from(self.installed) else self.installed
            self.options["tls"] = self._offered.context
        self._attempts += 1
        await super()._connect_to_server(s)

    async def _newest(self) -> InstalledSet:
        try:
            return await asyncio.to_thread(read_installed, self._directory)
        except SetUnreadable as error:
            await self._error_cb(error)
            return self.installed

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        if not self.is_connected:
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            raise nats.errors.Error("nats: the server closed the connection instead of answering CONNECT")
        self.installed = self._offered
        self._attempts = 1
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:  # a websocket has none
            self._peer = writer.get_extra_info("peername")
            # asyncio warns of every end of a TLS stream whose protocol it was not told of, and nats-py does not tell.
            writer.transport.get_protocol()._over_ssl = True

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if self._handed_on_by is not None or self._taken_over_by is not None:
            subscription = self._subs.get(sid)
            if isinstance(subscription, Subscription) and subscription.in_stream_order:
                delivery = DeliveredMessage(sid, subject, reply, data, headers)
                if self._taken_over_by is not None and self._taken_over_by.stops_new(delivery):
                    return
                if self._handed_on_by is not None:
                    self._handed_on_by.brought_by_old(delivery)
        await super()._process_msg(sid, subject, reply, data, headers)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        # Answers and acknowledgements go through the connection, by whichever wire it has then.
        return Msg(self._connection, subject.decode(), reply.decode(), data, headers, _sid=sid)  # type: ignore[arg-type]


async def _raise(error: Exception) -> None:
    raise error


async def _nobody(error: Exception) -> None:
    pass


async def dial_first(make: Callable[[], Transport], targets: list[DialTarget], options: dict[str, Any]) -> Transport:
    """Connect to the first of these servers that takes us.

    Raises:
        ConnectFailed: none did; it has the reason of each.
    """
    reasons: dict[str, str] = {}
    for target in targets:
        wire = make()
        try:
            await wire.dial(target, options)
        except (OSError, nats.errors.Error, TimeoutError) as error:
            reasons[_without_login(target.url)] = str(error) or type(error).__name__
            await wire.retire(_NO_PATIENCE)
        except asyncio.CancelledError:
            await wire.retire(_NO_PATIENCE)
            raise
        else:
            return wire
    raise ConnectFailed(reasons)


def _without_login(url: str) -> str:
    parsed: ParseResult = Client._parse_server_uri(url)
    return parsed._replace(netloc=parsed.netloc.rpartition("@")[2]).geturl()
