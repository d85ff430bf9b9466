"""JetStream as a target: bundles are announced on one subject, whose stream belongs to the authority alone.

A signed bundle is as good from the broker as from the kubelet, and arrives in milliseconds. A broker that is away
delays nothing but the announcement: the publisher connects when it has to publish, and every call has a time-out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, Header, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import NotFoundError

from authority.publishers.compare import compare
from authority.publishers.interface import PublishError, PublishOutcome, PublishResult, TargetContents
from tidemark.announcement import FORMAT, FORMAT_HEADER, MAX_MESSAGE_BYTES, STREAM, SUBJECT
from tidemark.bundle import Bundle
from tidemark.strict_json import FieldError
from tidemark.trust import Trust
from tidemark.verify import VerifiedBundle

_MESSAGES = 32
_DUPLICATE_SECONDS = 30.0  # within these the stream stores a message that is sent twice once


class BrokerConnection(Protocol):
    """The part of ``tidemark.nats.Connection`` that this publisher uses."""

    def jetstream(self, **options: Any) -> JetStreamContext:
        """JetStream over this connection."""

    async def reload(self) -> None:
        """Use the identity that the directory holds now; nothing happens where that is the one in use."""

    async def close(self) -> None:
        """Close at once."""


class JetStreamPublisher:
    """Implements ``Publisher``, for one stream.

    ``connect`` is called with the first bundle, and again until it succeeds; the connection has to reconnect by itself.
    ``timeout`` (seconds) limits each call.
    """

    name = "jetstream"

    def __init__(
        self, connect: Callable[[], Awaitable[BrokerConnection]], trust: Trust, replicas: int, timeout: float = 5.0
    ) -> None:
        self._connect = connect
        self._trust = trust
        self._timeout = timeout
        self._connection: BrokerConnection | None = None
        self._connecting = asyncio.Lock()
        self._owned: dict[str, Any] = {
            "retention": RetentionPolicy.LIMITS,
            "storage": StorageType.FILE,
            "discard": DiscardPolicy.OLD,
            "num_replicas": replicas,
            "max_msgs": _MESSAGES,
            "max_bytes": _MESSAGES * MAX_MESSAGE_BYTES,
            "max_msg_size": MAX_MESSAGE_BYTES,
            "duplicate_window": _DUPLICATE_SECONDS,
        }

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        """Make the bundle the stream's last message."""
        async with self._within_timeout("write"):
            connection = await self._connected()
            stream = connection.jetstream()
            outcome = await self._publish_to(stream, bundle)
        failed: tuple[str, ...] = ()
        try:
            async with self._within_timeout("write"):
                await connection.reload()
        except PublishError as error:
            failed = (str(error),)
        return PublishResult(
            written=(STREAM,) if outcome is PublishOutcome.WRITTEN else (),
            newer=(STREAM,) if outcome is PublishOutcome.NEWER else (),
            failed=failed,
        )

    async def read(self) -> tuple[TargetContents, ...]:
        """The stream's last message."""
        async with self._within_timeout("read"):
            stream = (await self._connected()).jetstream()
            return (TargetContents(STREAM, await _last(stream) if await self._existing(stream) else None),)

    def watch(self, changed: asyncio.Event) -> None:
        """The stream announces no changes: the caller reads it now and then."""

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()

    @asynccontextmanager
    async def _within_timeout(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            found = f"no answer within {self._timeout:g} s"
        except PublishError:
            raise
        except Exception as error:  # noqa: BLE001 # nats-py raises what its parsing comes across; the broker ends nothing
            found = str(error) or type(error).__name__
        else:
            return
        raise PublishError(f"jetstream: expected to {what} {SUBJECT}, found: {found}") from None

    async def _connected(self) -> BrokerConnection:
        async with self._connecting:
            if self._connection is None:
                self._connection = await self._connect()
            return self._connection

    async def _publish_to(self, stream: JetStreamContext, bundle: VerifiedBundle) -> PublishOutcome:
        # First the stream's end, then its last message: a message that comes in between makes our write fail, as the
        # write expects the end that we read. The other way round, that message would be written over unseen.
        info = await self._existing(stream)
        outcome = compare(STREAM, await _last(stream) if info else None, bundle, self._trust)
        if outcome is PublishOutcome.NEWER:
            # The stream's configuration stays as well: another authority may own the stream.
            return outcome
        await self._configure_stream(stream, info)
        if outcome is PublishOutcome.UNCHANGED:
            return outcome
        headers = {
            FORMAT_HEADER: FORMAT,
            Header.MSG_ID: f"{bundle.statement.trust_domain}.{bundle.sequence}.{bundle.digest}",
            Header.EXPECTED_LAST_SEQUENCE: str(info.state.last_seq if info else 0),
        }
        stored = await stream.publish(SUBJECT, bundle.bundle.to_json(), stream=STREAM, headers=headers)
        if stored.duplicate and await _last(stream) != bundle.bundle:
            raise PublishError(
                f"{STREAM}: expected to write sequence {bundle.sequence} over what another program has written, found "
                f"that the stream takes it for a repetition for {_DUPLICATE_SECONDS:g} s; it is tried again"
            )
        return PublishOutcome.WRITTEN

    async def _configure_stream(self, stream: JetStreamContext, info: StreamInfo | None) -> None:
        """Make the stream where it is missing, and change it where it differs from what it should be."""
        if info is None:
            await stream.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECT], **self._owned))
        elif any(getattr(info.config, name) != value for name, value in self._owned.items()):
            await stream.update_stream(info.config.evolve(**self._owned))

    async def _existing(self, stream: JetStreamContext) -> StreamInfo | None:
        """Our stream; None where it is missing and no other stream takes our subject."""
        try:
            info = await stream.stream_info(STREAM)
        except NotFoundError:
            await _refuse_other_owner(stream)
            return None
        shared = {"subjects": info.config.subjects, "mirror": info.config.mirror, "sources": info.config.sources}
        if shared != {"subjects": [SUBJECT], "mirror": None, "sources": None}:
            found = ", ".join(f"{name} {value}" for name, value in shared.items() if value)
            raise PublishError(
                f"stream {STREAM}: expected it to hold {SUBJECT} alone, found {found}; it belongs to the authority, "
                f"move everything else to a stream of its own"
            )
        return info


async def _refuse_other_owner(stream: JetStreamContext) -> None:
    try:
        owner = await stream.find_stream_name_by_subject(SUBJECT)
    except NotFoundError:
        return
    raise PublishError(
        f"subject {SUBJECT}: expected no stream but {STREAM} to take it, found stream {owner}; take it out of that one"
    )


async def _last(stream: JetStreamContext) -> Bundle | None:
    """The last message as a bundle; None where there is none, or it is no bundle."""
    try:
        message = await stream.get_last_msg(STREAM, SUBJECT)
        return Bundle.from_json(message.data or b"")
    except (NotFoundError, FieldError):
        return None
