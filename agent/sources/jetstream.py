"""The second source: the authority announces each bundle over JetStream, up to a minute before the mount has it.

The connection presents and trusts the installed set, and changes with it. Without a broker bundles come from the mount
alone, and the status says so. Imported only where a NATS URL is configured, as nats-py takes memory.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy
from nats.js.errors import NotFoundError

import tidemark.nats
from agent.backoff import doubled, jittered
from agent.clients.nats_calls import bounded, unbounded
from agent.selection.select import Refusal
from tidemark.announcement import FORMAT, FORMAT_HEADER, MAX_MESSAGE_BYTES, STREAM, SUBJECT
from tidemark.bundle import Bundle
from tidemark.strict_json import FieldError

_HEARTBEAT_SECONDS = 15.0
_REREAD_SECONDS = 60.0
_SETTLING_SECONDS = 1.0
"""The connection changes to another set so long after its installation: the workload reloads first."""
_NO_MESSAGE = 10037
"""nats-server's error code of a stream without a message on the subject."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message."""

    bundle: Bundle | Refusal
    """A bundle that is not verified yet, or why the message is none."""
    heard_at: float
    """When the message arrived, in seconds of the wall clock."""


class BrokerObserver(Protocol):
    """Records the state of the connection to the broker."""

    def broker_connected(self, server: str) -> None:
        """Announcements arrive; ``server`` is host and port."""

    def broker_disconnected(self, reason: str) -> None:
        """No announcements arrive; ``reason`` is a sentence."""


@dataclass(slots=True)
class _ConnectionState:
    """What the callbacks of the connection leave for the task that owns it."""

    set_changed: bool = False
    """Another set has been installed since the connection was made or reloaded."""
    is_lost: bool = False
    """The connection was interrupted since the subscription was made."""
    failures: int = 0
    """Tries in a row without a subscription."""


@dataclass(slots=True, eq=False)
class AnnouncementListener:
    """Listens for bundles on the broker. ``run`` is its one task."""

    servers: Sequence[str]
    """URLs of the broker."""
    directory: Path
    """Output directory with the installed set, to connect with."""
    login: Callable[[], Mapping[str, Any]]
    """Options of nats-py, read anew for each connection."""
    observer: BrokerObserver
    """Notified of the connection."""
    now: Callable[[], float]
    """The wall clock."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _state: _ConnectionState = field(default_factory=_ConnectionState)
    _last_data: bytes | None = None
    """Content of the last message, to tell a repetition from news."""

    def follow(self) -> None:
        """Another set is installed: the connection changes to it."""
        self._state.set_changed = True
        self._wake.set()

    async def first(self, identity: Path, within: float) -> Announcement | None:
        """The last announcement, for a pod without an installed set; ``identity`` holds the set to connect with.

        None where the broker does not answer within ``within`` seconds, or announces nothing.
        """
        try:
            return await bounded(self._fetch_last(identity), within, name="tidemark first announcement")
        except TimeoutError as error:
            self._report_disconnected(error)
            return None

    async def _fetch_last(self, identity: Path) -> Announcement | None:
        try:
            async with self._connection(identity, allow_reconnect=False) as connection:
                message = await connection.jetstream().get_last_msg(STREAM, SUBJECT)
        except Exception as error:  # noqa: BLE001 # nats-py raises whatever its parsing raises; no broker may end the agent
            self._report_disconnected(error)
            return None
        self._last_data = message.data
        return Announcement(read(message.data or b"", message.headers), self.now())

    async def run(self, deliver: Callable[[Announcement], None]) -> None:
        """Deliver the last announcement and then each new one; runs until it is cancelled."""
        await unbounded(self._run(deliver), name="tidemark announcements")

    async def _run(self, deliver: Callable[[Announcement], None]) -> None:
        while not self._state.set_changed:  # without a set there is nothing to connect with
            self._wake.clear()
            await self._wake.wait()
        while True:
            self._wake.clear()
            self._state.set_changed = self._state.is_lost = False
            try:
                async with self._connection(self.directory) as connection:
                    await self._listen(connection, deliver)
            except Exception as error:  # noqa: BLE001 # as above
                self._report_disconnected(error)
            if not self._state.set_changed:
                self._wake.clear()  # the end of the connection itself has set the event
            pause = doubled(_FIRST_PAUSE, self._state.failures, _LONGEST_PAUSE)
            self._state.failures += 1
            # Another set ends the pause: the broker may trust that one.
            await self._wait_for_wake(jittered(pause, 0.5, 1.0))

    async def _wait_for_wake(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._wake.wait()

    @asynccontextmanager
    async def _connection(self, identity: Path, **options: Any) -> AsyncIterator[tidemark.nats.Connection]:
        async def on_error(error: Exception) -> None:
            if self._state.is_lost:
                self._report_disconnected(error)

        async def on_disconnect() -> None:
            self._state.is_lost = True
            self._report_disconnected(ConnectionError("the connection was lost"))

        async def on_interruption() -> None:
            self._state.is_lost = True
            self._wake.set()

        events = {
            "error_cb": on_error,
            "disconnected_cb": on_disconnect,
            "reconnected_cb": on_interruption,
            "closed_cb": on_interruption,
        }
        connection = await tidemark.nats.connect(
            list(self.servers),
            directory=identity,
            on_reload_failed=_ignore_failed_reload,
            **{**self.login(), **events, **options},
        )
        async with connection:
            yield connection

    async def _listen(self, connection: tidemark.nats.Connection, deliver: Callable[[Announcement], None]) -> None:
        """Subscribe, and read the last message once a minute: a stream may be made anew, and a consumer may be lost."""
        stream = connection.jetstream()

        async def on_message(message: Msg) -> None:
            self._deliver_news(message.data, message.headers, deliver)

        while True:
            subscription = await stream.subscribe(
                SUBJECT,
                stream=STREAM,
                ordered_consumer=True,
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                idle_heartbeat=_HEARTBEAT_SECONDS,
                cb=on_message,
            )
            self._state.is_lost, self._state.failures = False, 0
            while not self._state.is_lost:
                self.observer.broker_connected(_server_of(connection))
                await self._wait_for_wake(_REREAD_SECONDS)
                self._wake.clear()
                if self._state.set_changed:
                    await self._change_set(connection)
                elif not self._state.is_lost and self._deliver_news(*await _read_last(stream), deliver):
                    break  # the consumer should have delivered it: subscribe anew
            await subscription.unsubscribe()

    async def _change_set(self, connection: tidemark.nats.Connection) -> None:
        """Present and trust the set that is installed now."""
        await asyncio.sleep(_SETTLING_SECONDS)
        self._state.set_changed = False
        with contextlib.suppress(tidemark.nats.ReloadFailed):  # the old set still serves, and the next one is tried
            await connection.reload()

    def _deliver_news(
        self, data: bytes | None, headers: Mapping[str, str] | None, deliver: Callable[[Announcement], None]
    ) -> bool:
        """Deliver a message unless it repeats the last one; returns whether it was delivered."""
        if data is None or data == self._last_data:
            return False
        self._last_data = data
        deliver(Announcement(read(data, headers), self.now()))
        return True

    def _report_disconnected(self, error: Exception) -> None:
        found = str(error) or type(error).__name__
        if isinstance(error, NotFoundError):
            found = f"no stream {STREAM}, which the authority makes when it announces its first bundle"
        self.observer.broker_disconnected(f"{', '.join(self.servers)}: expected to hear {SUBJECT}, found {found}")


def read(data: bytes, headers: Mapping[str, str] | None) -> Bundle | Refusal:
    """Read a message as a bundle, without verification; pure."""
    found_format = (headers or {}).get(FORMAT_HEADER)
    if found_format != FORMAT:
        found = f"{FORMAT_HEADER}: {found_format[:80]}" if found_format else f"no {FORMAT_HEADER}"
        return Refusal("format", f"{SUBJECT}: expected {FORMAT_HEADER}: {FORMAT}, found {found}")
    if len(data) > MAX_MESSAGE_BYTES:
        return Refusal("size", f"{SUBJECT}: expected at most {MAX_MESSAGE_BYTES} bytes, found {len(data)}")
    try:
        return Bundle.from_json(data)
    except FieldError as error:
        return Refusal("format", f"{SUBJECT}: expected a bundle, found {error}")


async def _read_last(stream: JetStreamContext) -> tuple[bytes | None, Mapping[str, str] | None]:
    try:
        message = await stream.get_last_msg(STREAM, SUBJECT)
    except NotFoundError as error:
        if error.err_code != _NO_MESSAGE:
            raise
        return None, None
    return message.data, message.headers


def _server_of(connection: tidemark.nats.Connection) -> str:
    url = connection.connected_url
    return url.netloc.rpartition("@")[2] if url else ""


async def _ignore_failed_reload(_: tidemark.nats.ReloadFailed) -> None:
    """The old set still serves; ``run`` reports a connection that does not come back."""
