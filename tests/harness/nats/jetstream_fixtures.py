"""Fixtures: a nats-server with JetStream whose first set of certificates an authority issued."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from authority.publishers.directory import DirectoryPublisher
from authority.publishers.leaf_directory import DirectoryLeafStore
from tests.harness.contract.issued_bundles import IssuedBundles
from tests.harness.nats.jetstream_broker import JetStreamBroker
from tidemark.verify import VerifiedBundle


@pytest.fixture
async def first_bundle(bundles: IssuedBundles, tmp_path: Path) -> VerifiedBundle:
    """The first bundle, in ``server`` and ``identity`` below ``tmp_path``, each with a leaf of its own."""
    bundle = await bundles.bundle(1)
    for name in ("server", "identity"):
        await DirectoryPublisher([tmp_path / name], bundles.trust).publish(bundle)
        await DirectoryLeafStore(tmp_path / name).write(await bundles.leaf(bundle))
    return bundle


@pytest.fixture
def broker(tmp_path: Path, first_bundle: VerifiedBundle) -> Iterator[JetStreamBroker]:
    """A running server that trusts the first bundle."""
    broker = JetStreamBroker(tmp_path / "nats", tmp_path / "server")
    broker.start()
    yield broker
    broker.stop()
