"""One TLS connection to one server: nats-py's client, with what a hand-over to the next one needs.

Everything that depends on private parts of nats-py is here, in ``subscription`` and in ``client_surface``; written
against nats-py 2.16. What is different from nats-py's client:

- ``flush`` proves that the server has processed everything. In 2.13.1 to 2.16.0 ``_send_ping`` writes PING to the
  socket while SUB, UNSUB and PUB still wait in ``_pending`` for the flusher. So a PONG says nothing about them, and
  ``drain`` may lose messages. Here the waiting commands are written first, without giving up control between the two
  writes. (To flush twice helps the application's own calls, but not the flush inside ``drain``.)
- A PONG for a flush that timed out no longer ends the read loop.
- The subscriptions belong to the connection and outlive the transport.
- A server that hangs up during the handshake is an error; with nats-py, ``connect`` returns a client that is never
  connected.
- Each reconnect presents the set that is installed by then.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg

from tidemark.nats.errors import SetUnreadable
from tidemark.nats.installed_set import InstalledSet, read_installed
from tidemark.nats.subscription import Subscription
from tidemark.nats.switching.dedup import Deduplicator, DeliveredMessage

_DIAL_OPTIONS: dict[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}
_RECONNECT_OPTIONS: dict[str, Any] = {"allow_reconnect": True, "max_reconnect_attempts": -1, "reconnect_time_wait": 2}

_PARSING_ERRORS = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What nats-py raises where a greeting is not a nats-server's."""

_OVERRIDDEN = (
    *("_send_ping", "_process_pong", "_process_op_err", "_close", "_connect_to_server", "_process_connect_init"),
    *("_build_message", "_process_msg"),
)
for _name in _OVERRIDDEN:
    if not hasattr(Client, _name):  # nats-py would not call what is overridden below, and messages would be lost
        raise ImportError(f"nats-py: expected nats.aio.client.Client.{_name}, found none; tidemark.nats needs 2.16")


@dataclass(frozen=True, slots=True)
class DialTarget:
    """A server to connect to."""

    url: str
    tls_name: str | None = None
    """The name that the server's certificate must have, where that is not the URL's host."""


class Transport(Client):
    """nats-py's client for one TLS connection; applications use ``Connection``.

    More methods and fields than elsewhere in this project: nats-py has its whole client in one class, so what differs
    from that class must be overridden in one subclass.
    """

    def __init__(self, connection: object, directory: Path, installed: InstalledSet) -> None:
        super().__init__()
        self.installed = installed
        """The set that the present TLS session was made with."""
        self._connection = connection
        """Answers to a message go through this ``Connection``, as the transport may be closed by then."""
        self._directory = directory
        self._offered = installed
        """The set that the connection attempt under way presents."""
        self._attempts = 0
        """Connection attempts since the last one that succeeded."""
        self._peer: tuple[Any, ...] | None = None
        """The server's address."""
        self._confirmations: set[asyncio.Future[bool]] = set()
        self._dedup_as_old: Deduplicator | None = None
        self._dedup_as_new: Deduplicator | None = None

    async def dial(self, target: DialTarget, options: dict[str, Any]) -> None:
        """Connect to this one server, once.

        Raises:
            OSError, nats.errors.Error, TimeoutError: what the network or the server reported.
        """
        asked = options | _DIAL_OPTIONS
        if target.tls_name and not options.get("tls_hostname"):
            asked["tls_hostname"] = target.tls_name
        # nats-py would try again for ever; an error callback that raises makes it raise the first error instead.
        connecting = self.connect([target.url], error_cb=_raise, tls=self._offered.context, **asked)
        try:
            await connecting
        except (OSError, nats.errors.Error):  # a certificate that does not verify is a ValueError as well
            raise
        except _PARSING_ERRORS as error:
            raise nats.errors.Error(
                f"nats: expected a server's greeting, found {type(error).__name__}: {error}"
            ) from error

    def enable_reconnect(self, options: dict[str, Any], servers: list[str], instead: Srv | None) -> None:
        """Reconnect by itself from now on, to the application's servers.

        ``instead`` is the old transport's entry of this server, where the server was dialled by its bare address.
        """
        reconnect = {name: options.get(name, default) for name, default in _RECONNECT_OPTIONS.items()}
        self.options.update(reconnect)
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
        """Set the callbacks of this transport's events, by nats-py's option names; other events are ignored."""
        self._error_cb = events.get("error_cb", _ignore)
        self._disconnected_cb = events.get("disconnected_cb")
        self._reconnected_cb = events.get("reconnected_cb")
        self._closed_cb = events.get("closed_cb")
        self._discovered_server_cb = events.get("discovered_server_cb")
        self._lame_duck_mode_cb = events.get("lame_duck_mode_cb")

    @property
    def server(self) -> Srv | None:
        """nats-py's entry of the server that this transport is, or was last, connected to."""
        return replace(self._current_server) if self._current_server else None

    @property
    def host_and_port(self) -> str:
        """Host and port of that server, without login; empty without a server."""
        return self._current_server.uri.netloc.rpartition("@")[2] if self._current_server else ""

    @property
    def server_id(self) -> str:
        """The id that the server gives itself: the same behind each of its names and addresses."""
        return str(self._server_info.get("server_id", ""))

    def same_server(self) -> DialTarget | None:
        """How to connect to exactly this server again: by its address, as its name may lead to another server."""
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

    def attach(self, subscriptions: dict[int, Subscription]) -> None:
        """Deliver to these subscriptions from now on; the dictionary is shared, not copied."""
        self._subs = subscriptions  # type: ignore[assignment] # nats-py types it by its own, wider, class

    def detach(self) -> None:
        """Deliver to no subscription any more."""
        self._subs = {}

    def dedup_as_old(self, dedup: Deduplicator | None) -> None:
        """Deduplicate with a new transport that has the same inboxes; None: that hand-over is over."""
        self._dedup_as_old = dedup

    def dedup_as_new(self, dedup: Deduplicator) -> None:
        """Deduplicate with the old transport, which has the same inboxes and is in use."""
        self._dedup_as_new = dedup

    async def deliver(self, message: DeliveredMessage) -> None:
        """Deliver a message to its subscription, without deduplication."""
        try:
            await super()._process_msg(*message)
        except nats.errors.Error as error:  # the transport broke while an answer to flow control was written
            await self._error_cb(error)

    async def subscribe_on_server(self, subscription: Subscription) -> None:
        """Send SUB, and the messages left of an auto-unsubscribe limit; confirmed after ``confirm``."""
        await self._send_subscribe(subscription)
        if subscription.left:
            await self._send_unsubscribe(subscription.sid, limit=subscription.left)

    async def unsubscribe_on_server(self, sid: int, limit: int = 0) -> None:
        """Send UNSUB; confirmed after ``confirm``."""
        await self._send_unsubscribe(sid, limit=limit)

    def adopt_unsent(self, other: "Transport") -> None:
        """Send the messages that ``other`` buffered while it had no server."""
        unsent = [command for command in other._pending if command.startswith((b"PUB ", b"HPUB "))]
        other._pending = []
        other._pending_data_size = 0
        self._pending += unsent
        self._pending_data_size += sum(map(len, unsent))

    async def confirm(self, within: float) -> None:
        """Wait until the server has processed everything sent, and everything that it sent before is delivered.

        Raises:
            TimeoutError: no answer within ``within`` seconds.
            nats.errors.Error: the transport broke meanwhile, or was not connected.
        """
        if not self.is_connected:
            raise nats.errors.ConnectionReconnectingError
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        answered: asyncio.Future[bool] = loop.create_future()
        self._confirmations.add(answered)
        try:
            # Two time limits, as nats-py swallows a cancellation that arrives while it wakes its flusher.
            async with asyncio.timeout_at(deadline):
                await self._send_ping(answered)
            async with asyncio.timeout_at(deadline):
                await answered
        finally:
            self._confirmations.discard(answered)

    def stop_reconnecting(self) -> None:
        """Stop looking for a server: the new transport has one."""
        self.detach()
        if self._reconnection_task is not None:
            self._reconnection_task.cancel()

    async def retire(self, patience: float = 1.0) -> None:
        """Close a transport that is not in use any more, without events.

        The end of the TLS session is awaited for ``patience`` seconds; then the socket is closed all the same.
        """
        self.report_to({})
        writers = [getattr(self._transport, name, None) for name in ("_io_writer", "_bare_io_writer")]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.close()
        finally:
            # nats-py closes no socket where it is closing already, or where the TLS handshake is not finished.
            for writer in writers:
                if writer is not None:
                    # A TLS stream that has ended has nothing to abort: Python 3.11.2 raises AttributeError then.
                    with contextlib.suppress(AttributeError):
                        writer.transport.abort()
        self._break_reference_cycles()

    def _break_reference_cycles(self) -> None:
        """Let the buffers be freed at once: they are far larger than the garbage collector counts."""
        self._transport = None
        self._ps = None  # type: ignore[assignment] # a closed client parses nothing any more
        self._reading_task = self._flusher_task = self._ping_interval_task = self._reconnection_task = None
        self._connection = None
        self.options = {}

    # -- overrides of nats-py's client; the module's docstring says why

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
        self._fail_confirmations(e)
        await super()._process_op_err(e)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # nats-py stops every subscription of a client that closes; these outlive the transport.
        self.detach()
        self._fail_confirmations(nats.errors.ConnectionClosedError())
        if not self.is_connected:  # without a server nats-py would write what is pending to a closed stream
            self._pending = []
            self._pending_data_size = 0
        await super()._close(status, do_cbs)

    def _fail_confirmations(self, error: Exception) -> None:
        for answered in self._confirmations:
            if not answered.done():
                answered.set_exception(error)

    async def _connect_to_server(self, s: Srv) -> None:
        """Before each attempt, choose the set: the one installed by now or, every other time, the last that worked.

        The last that worked is not used once one of its CAs is withdrawn: a thief of that CA's key could be the server.
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
            # nats-py upgrades the stream to TLS without telling its protocol, so asyncio would warn at its end.
            writer.transport.get_protocol()._over_ssl = True

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if self._dedup_as_old is not None or self._dedup_as_new is not None:
            subscription = self._subs.get(sid)
            if isinstance(subscription, Subscription) and subscription.in_stream_order:
                message = DeliveredMessage(sid, subject, reply, data, headers)
                # New before old: what is held back here was not delivered by this transport.
                if self._dedup_as_new is not None and self._dedup_as_new.stops_new(message):
                    return
                if self._dedup_as_old is not None:
                    self._dedup_as_old.record_old(message)
        await super()._process_msg(sid, subject, reply, data, headers)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        # Answers and acknowledgements go through the connection, on the transport of that moment.
        return Msg(self._connection, subject.decode(), reply.decode(), data, headers, _sid=sid)  # type: ignore[arg-type]


async def _raise(error: Exception) -> None:
    raise error


async def _ignore(error: Exception) -> None:
    pass
