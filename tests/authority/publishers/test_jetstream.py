"""The JetStream publisher against a real nats-server with JetStream and mutual TLS."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StreamConfig
from nats.js.errors import NotFoundError

import tidemark.nats
from authority.publishers.interface import PublishError, PublishOutcome
from authority.publishers.jetstream import JetStreamPublisher
from authority.publishers.leaf_directory import DirectoryLeafStore
from tests.harness.contract.issued_bundles import IssuedBundles
from tests.harness.nats.jetstream_broker import JetStreamBroker
from tidemark.announcement import STREAM, SUBJECT
from tidemark.bundle import Bundle, Cause
from tidemark.verify import VerifiedBundle


@pytest.fixture
async def client(tmp_path: Path, broker: JetStreamBroker) -> AsyncIterator[tidemark.nats.Connection]:
    async with await tidemark.nats.connect(broker.url, directory=tmp_path / "identity") as connection:
        yield connection


@pytest.fixture
async def stream(client: tidemark.nats.Connection) -> JetStreamContext:
    """What an application or a stranger sees and does."""
    return client.jetstream()


@pytest.fixture
async def publisher(
    tmp_path: Path, broker: JetStreamBroker, bundles: IssuedBundles
) -> AsyncIterator[JetStreamPublisher]:
    publisher = made(broker, tmp_path / "identity", bundles)
    yield publisher
    await publisher.close()


def made(broker: JetStreamBroker, identity: Path, bundles: IssuedBundles, **options: Any) -> JetStreamPublisher:
    connect = partial(tidemark.nats.connect, broker.url, directory=identity)
    return JetStreamPublisher(connect, bundles.trust, **({"replicas": 1} | options))


async def last(stream: JetStreamContext) -> Bundle:
    return Bundle.from_json((await stream.get_last_msg(STREAM, SUBJECT)).data or b"")


async def test_bundle_is_announced(
    publisher: JetStreamPublisher, stream: JetStreamContext, first_bundle: VerifiedBundle
) -> None:
    assert [(seen.target, seen.bundle) for seen in await publisher.read()] == [(STREAM, None)]
    assert (await publisher.publish(first_bundle)).outcome is PublishOutcome.WRITTEN
    message = await stream.get_last_msg(STREAM, SUBJECT)
    assert message.data == first_bundle.bundle.to_json()
    assert message.headers is not None
    assert message.headers["Tidemark-Format"] == "bundle/v1"
    assert message.headers["Nats-Msg-Id"] == f"bus.example.com.1.{first_bundle.digest}"
    assert [seen.bundle for seen in await publisher.read()] == [first_bundle.bundle]


async def test_unchanged_bundle_is_not_announced_again(
    publisher: JetStreamPublisher, stream: JetStreamContext, first_bundle: VerifiedBundle
) -> None:
    await publisher.publish(first_bundle)
    assert (await publisher.publish(first_bundle)).outcome is PublishOutcome.UNCHANGED
    assert (await stream.stream_info(STREAM)).state.messages == 1


async def test_late_leader_cannot_announce_an_older_bundle(
    publisher: JetStreamPublisher, stream: JetStreamContext, bundles: IssuedBundles, first_bundle: VerifiedBundle
) -> None:
    second = await bundles.bundle(2)
    await publisher.publish(second)
    assert (await publisher.publish(first_bundle)).outcome is PublishOutcome.NEWER
    assert await last(stream) == second.bundle


async def test_second_text_of_one_sequence_is_an_error(
    publisher: JetStreamPublisher, bundles: IssuedBundles, first_bundle: VerifiedBundle
) -> None:
    await publisher.publish(first_bundle)
    with pytest.raises(PublishError, match=r"METADATA_CA_CLIENT: expected sequence 1 to be the statement"):
        await publisher.publish(await bundles.bundle(1, Cause.FORCED))


class Distracted:
    """A connection on which something happens between reading the last message and whatever is done next."""

    def __init__(self, connection: tidemark.nats.Connection, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._connection = connection
        self._meanwhile = meanwhile
        self.reload = connection.reload
        self.close = connection.close

    def jetstream(self, **options: Any) -> JetStreamContext:
        meanwhile = self._meanwhile

        class Stream(tidemark.nats.JetStream):
            async def get_last_msg(self, *of: Any, **options: Any) -> RawStreamMsg:
                message = await super().get_last_msg(*of, **options)
                await meanwhile()
                return message

        return Stream(self._connection, **options)


async def test_message_between_read_and_write_is_not_written_over(
    publisher: JetStreamPublisher,
    client: tidemark.nats.Connection,
    bundles: IssuedBundles,
    first_bundle: VerifiedBundle,
) -> None:
    """The other leader announces 3 after this one has looked and before it writes its 2."""
    await publisher.publish(first_bundle)
    second, third = await bundles.bundle(2), await bundles.bundle(3)

    async def connect() -> Distracted:
        return Distracted(client, lambda: publisher.publish(third))

    with pytest.raises(PublishError, match="wrong last sequence"):
        await JetStreamPublisher(connect, bundles.trust, 1).publish(second)
    assert await last(client.jetstream()) == third.bundle


async def test_foreign_message_is_written_over(
    publisher: JetStreamPublisher, stream: JetStreamContext, bundles: IssuedBundles, first_bundle: VerifiedBundle
) -> None:
    await publisher.publish(first_bundle)
    await stream.publish(SUBJECT, b"\xff not a bundle")
    assert [seen.bundle for seen in await publisher.read()] == [None]
    with pytest.raises(PublishError, match=r"expected to write sequence 1 .*takes it for a repetition for 30 s"):
        await publisher.publish(first_bundle)
    second = await bundles.bundle(2)
    assert (await publisher.publish(second)).outcome is PublishOutcome.WRITTEN
    assert await last(stream) == second.bundle


async def test_stream_with_other_subjects_is_refused(
    publisher: JetStreamPublisher, stream: JetStreamContext, first_bundle: VerifiedBundle
) -> None:
    await stream.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECT, "orders.>"]))
    with pytest.raises(PublishError, match=r"stream METADATA_CA_CLIENT: expected it to hold metadata\.client\.ca-cert"):
        await publisher.publish(first_bundle)
    with pytest.raises(NotFoundError):
        await stream.get_last_msg(STREAM, SUBJECT)


async def test_subject_in_a_foreign_stream_is_refused(
    publisher: JetStreamPublisher, stream: JetStreamContext, first_bundle: VerifiedBundle
) -> None:
    await stream.add_stream(StreamConfig(name="EVERYTHING", subjects=["metadata.>"]))
    with pytest.raises(
        PublishError, match=r"expected no stream but METADATA_CA_CLIENT to take it, found .* EVERYTHING"
    ):
        await publisher.publish(first_bundle)
    with pytest.raises(PublishError, match="EVERYTHING"):
        await publisher.read()


async def test_changed_stream_configuration_is_restored(
    publisher: JetStreamPublisher, stream: JetStreamContext, first_bundle: VerifiedBundle
) -> None:
    await stream.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECT], max_msgs=1000, description="ours"))
    await publisher.publish(first_bundle)
    config = (await stream.stream_info(STREAM)).config
    assert config.max_msgs == 32
    assert config.max_bytes == 32 * 1024 * 1024
    assert config.description == "ours"


async def test_more_replicas_than_servers_is_an_error(
    broker: JetStreamBroker, bundles: IssuedBundles, first_bundle: VerifiedBundle, tmp_path: Path
) -> None:
    publisher = made(broker, tmp_path / "identity", bundles, replicas=3)
    with pytest.raises(
        PublishError, match=r"jetstream: expected to write metadata\.client\.ca-cert, found: .*replicas"
    ):
        await publisher.publish(first_bundle)
    await publisher.close()


async def test_absent_broker_is_an_error_until_it_returns(
    broker: JetStreamBroker, bundles: IssuedBundles, first_bundle: VerifiedBundle, tmp_path: Path
) -> None:
    broker.stop()
    publisher = made(broker, tmp_path / "identity", bundles, timeout=2.0)
    with pytest.raises(PublishError, match=r"jetstream: expected to write .* found: .*Connect call failed"):
        await publisher.publish(first_bundle)
    broker.start()
    assert (await publisher.publish(first_bundle)).outcome is PublishOutcome.WRITTEN
    broker.stop()
    with pytest.raises(PublishError, match=r"jetstream: expected to write .*"):
        await publisher.publish(await bundles.bundle(2))
    broker.start()
    deadline = time.monotonic() + 20
    while True:
        try:
            outcome = (await publisher.publish(await bundles.bundle(2))).outcome
            break
        except PublishError:
            assert time.monotonic() < deadline
    # The write that seemed to fail may have been waiting in the connection; either way it is there once.
    assert outcome in (PublishOutcome.WRITTEN, PublishOutcome.UNCHANGED)
    await publisher.close()


async def test_missing_identity_is_an_error(
    broker: JetStreamBroker, bundles: IssuedBundles, first_bundle: VerifiedBundle, tmp_path: Path
) -> None:
    publisher = made(broker, tmp_path / "nobody", bundles)
    with pytest.raises(PublishError, match=r"found: .*nobody.*ca\.crt"):
        await publisher.publish(first_bundle)
    await publisher.close()


async def test_higher_sequence_is_reported_though_the_identity_is_unusable(
    publisher: JetStreamPublisher,
    bundles: IssuedBundles,
    first_bundle: VerifiedBundle,
    stream: JetStreamContext,
    tmp_path: Path,
) -> None:
    await publisher.publish(await bundles.bundle(2))
    await stream.update_stream((await stream.stream_info(STREAM)).config.evolve(max_msgs=7))
    (tmp_path / "identity" / "..data" / "tls.crt").write_text("no certificate")
    brought = await publisher.publish(first_bundle)
    assert (brought.outcome, brought.newer) == (PublishOutcome.NEWER, (STREAM,))
    (failure,) = brought.failed
    assert failure.startswith("jetstream: expected to write metadata.client.ca-cert, found: ")
    assert (await stream.stream_info(STREAM)).config.max_msgs == 7  # the authority that is ahead may want it so


async def test_new_identity_is_used(
    publisher: JetStreamPublisher, bundles: IssuedBundles, first_bundle: VerifiedBundle, tmp_path: Path
) -> None:
    await publisher.publish(first_bundle)
    connection = publisher._connection
    assert isinstance(connection, tidemark.nats.Connection)
    before = connection.leaf_sha256
    await DirectoryLeafStore(tmp_path / "identity").write(await bundles.leaf(first_bundle))
    assert (await publisher.publish(first_bundle)).outcome is PublishOutcome.UNCHANGED
    assert connection.leaf_sha256 != before
