"""The second source: the authority's announcement over JetStream, as good as the mount and a minute earlier.

The connection presents and trusts the installed set, and follows it. The broker being away delays nothing: the mount
alone carries on, and the board says so. Imported only where a NATS URL is configured, as nats-py takes memory.
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
_NO_MESSAGE = 10037
"""nats-server's error code of a stream without a message on the subject."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message: a bundle, not trusted yet, or why it is none; ``heard_at`` in seconds of the wall clock."""

    bundle: Bundle | Refusal
    heard_at: float


class BrokerObserver(Protocol):
    """Records the state of the connection to the broker."""

    def broker_connected(self, server: str) -> None:
        """Announcements arrive; ``server`` is host and port."""

    def broker_disconnected(self, reason: str) -> None:
        """No announcements arrive; ``reason`` is a sentence."""


@dataclass(slots=True, eq=False)
class AnnouncementListener:
    """Listens for bundles on the broker. ``follow`` says that another set is in ``directory``; ``run`` is its one task.

    ``login`` gives nats-py's options for it, anew for each connection; ``observer`` is notified of the
    connection, ``now`` is the wall clock.
    """

    servers: Sequence[str]
    directory: Path
    login: Callable[[], Mapping[str, Any]]
    observer: BrokerObserver
    now: Callable[[], float]
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _moved: bool = False
    _lost: bool = False
    _failures: int = 0
    _said: bytes | None = None

    def follow(self) -> None:
        """Another set has come in place."""
        self._moved = True
        self._wake.set()

    async def first(self, identity: Path, within: float) -> Announcement | None:
        """What is announced now, for a pod that has nothing yet; ``identity`` holds the set to connect with.

        None where the broker does not answer within so many seconds, or announces nothing.
        """
        try:
            return await bounded(self._ask(identity), within, name="tidemark first announcement")
        except TimeoutError as error:
            self._is_away(error)
            return None

    async def _ask(self, identity: Path) -> Announcement | None:
        try:
            async with self._connection(identity, allow_reconnect=False) as connection:
                message = await connection.jetstream().get_last_msg(STREAM, SUBJECT)
        except Exception as error:  # noqa: BLE001 # nats-py raises what its parsing comes across; the broker ends nothing
            self._is_away(error)
            return None
        self._said = message.data
        return Announcement(read(message.data or b"", message.headers), self.now())

    async def run(self, deliver: Callable[[Announcement], None]) -> None:
        """Deliver the last announcement and then each new one; runs until it is cancelled."""
        await unbounded(self._run(deliver), name="tidemark announcements")

    async def _run(self, deliver: Callable[[Announcement], None]) -> None:
        while not self._moved:  # without a set there is nothing to connect with
            self._wake.clear()
            await self._wake.wait()
        while True:
            self._wake.clear()
            self._moved = self._lost = False
            try:
                async with self._connection(self.directory) as connection:
                    await self._listen(connection, deliver)
            except Exception as error:  # noqa: BLE001 # as above
                self._is_away(error)
            if not self._moved:
                self._wake.clear()  # it was the connection's own end that rang
            pause = doubled(_FIRST_PAUSE, self._failures, _LONGEST_PAUSE)
            self._failures += 1
            # Another set in place may be what it takes.
            await self._woken(jittered(pause, 0.5, 1.0))

    async def _woken(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._wake.wait()

    @asynccontextmanager
    async def _connection(self, identity: Path, **options: Any) -> AsyncIterator[tidemark.nats.Connection]:
        async def failed(error: Exception) -> None:
            if self._lost:
                self._is_away(error)

        async def lost() -> None:
            self._lost = True
            self._is_away(ConnectionError("the connection was lost"))

        async def disturbed() -> None:
            self._lost = True
            self._wake.set()

        events = {"error_cb": failed, "disconnected_cb": lost, "reconnected_cb": disturbed, "closed_cb": disturbed}
        connection = await tidemark.nats.connect(
            list(self.servers),
            directory=identity,
            on_reload_failed=_told_already,
            **{**self.login(), **events, **options},
        )
        async with connection:
            yield connection

    async def _listen(self, connection: tidemark.nats.Connection, deliver: Callable[[Announcement], None]) -> None:
        """Hear what is announced, and look once a minute whether it was: a stream may be made anew, a consumer lost."""
        stream = connection.jetstream()

        async def hear(message: Msg) -> None:
            self._hear(message.data, message.headers, deliver)

        while True:
            subscription = await stream.subscribe(
                SUBJECT,
                stream=STREAM,
                ordered_consumer=True,
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                idle_heartbeat=_HEARTBEAT_SECONDS,
                cb=hear,
            )
            self._lost, self._failures = False, 0
            while not self._lost:
                self.observer.broker_connected(_where(connection))
                await self._woken(_REREAD_SECONDS)
                self._wake.clear()
                if self._moved:
                    await self._move(connection)
                elif not self._lost and self._hear(*await _last(stream), deliver):
                    break  # the consumer should have brought it
            await subscription.unsubscribe()

    async def _move(self, connection: tidemark.nats.Connection) -> None:
        """Present and trust the set that has come in place; the workload goes before."""
        await asyncio.sleep(_SETTLING_SECONDS)
        self._moved = False
        with contextlib.suppress(tidemark.nats.ReloadFailed):  # the old set does still, and the next one is tried again
            await connection.reload()

    def _hear(
        self, data: bytes | None, headers: Mapping[str, str] | None, deliver: Callable[[Announcement], None]
    ) -> bool:
        """Whether this was news."""
        if data is None or data == self._said:
            return False
        self._said = data
        deliver(Announcement(read(data, headers), self.now()))
        return True

    def _is_away(self, error: Exception) -> None:
        found = str(error) or type(error).__name__
        if isinstance(error, NotFoundError):
            found = f"no stream {STREAM}, which the authority makes when it announces its first bundle"
        self.observer.broker_disconnected(f"{', '.join(self.servers)}: expected to hear {SUBJECT}, found {found}")


def read(data: bytes, headers: Mapping[str, str] | None) -> Bundle | Refusal:
    """A message as a bundle, nothing of it verified; pure."""
    said = (headers or {}).get(FORMAT_HEADER)
    if said != FORMAT:
        found = f"{FORMAT_HEADER}: {said[:80]}" if said else f"no {FORMAT_HEADER}"
        return Refusal("format", f"{SUBJECT}: expected {FORMAT_HEADER}: {FORMAT}, found {found}")
    if len(data) > MAX_MESSAGE_BYTES:
        return Refusal("size", f"{SUBJECT}: expected at most {MAX_MESSAGE_BYTES} bytes, found {len(data)}")
    try:
        return Bundle.from_json(data)
    except FieldError as error:
        return Refusal("format", f"{SUBJECT}: expected a bundle, found {error}")


async def _last(stream: JetStreamContext) -> tuple[bytes | None, Mapping[str, str] | None]:
    try:
        message = await stream.get_last_msg(STREAM, SUBJECT)
    except NotFoundError as error:
        if error.err_code != _NO_MESSAGE:
            raise
        return None, None
    return message.data, message.headers


def _where(connection: tidemark.nats.Connection) -> str:
    url = connection.connected_url
    return url.netloc.rpartition("@")[2] if url else ""


async def _told_already(_: tidemark.nats.ReloadFailed) -> None:
    """The source says itself what it comes across."""
