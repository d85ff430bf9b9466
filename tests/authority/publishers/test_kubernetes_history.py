"""The history in Kubernetes: a Secret for each published statement, deleted with its epoch."""

import time
from pathlib import Path

from authority.kubernetes.client import KubernetesClient
from authority.publishers.interface import PublishOutcome
from authority.publishers.kubernetes import KubernetesPublisher
from tests.harness.contract.issued_bundles import CLOCK, IssuedBundles
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.bundle_secrets import history, secret_of
from tests.harness.kubernetes.kinds import SECRET

NOW = int(time.time())


async def test_history_is_recorded_and_pruned_with_its_epochs(
    server: ApiServer, client: KubernetesClient, tmp_path: Path
) -> None:
    kept = CLOCK.validity_seconds + CLOCK.epoch_seconds
    start = CLOCK.start(CLOCK.epoch_at(NOW))
    instants = (start - kept, start - kept + CLOCK.epoch_seconds, start)
    foundries = [await IssuedBundles.create(tmp_path / "state", instant) for instant in instants]
    publisher = KubernetesPublisher(client, foundries[0].trust, "tidemark")
    bundles = [await one.bundle(sequence) for sequence, one in enumerate(foundries, start=1)]
    names = [f"nats-ca-bundle-epoch-{one.statement.epoch}-{one.sequence}" for one in bundles]
    assert (await publisher.publish(bundles[0])).outcome is PublishOutcome.UNCHANGED  # no namespace wants it
    assert (await publisher.publish(bundles[1])).outcome is PublishOutcome.UNCHANGED
    assert history(server) == set(names[:2])
    foreign = secret_of(bundles[0], "nats-ca-bundle-epoch-1-1", "tidemark")  # without our label: not ours
    server.store.put(SECRET, foreign)
    garbled = secret_of(bundles[0], "nats-ca-bundle-epoch-2-1", "tidemark") | {"data": {}}
    garbled["metadata"]["labels"] = {"tidemark.io/history": "bundle"}
    server.store.put(SECRET, garbled)
    await publisher.publish(bundles[2])
    assert history(server) == set(names[1:])
    assert server.store.find(SECRET, "tidemark", "nats-ca-bundle-epoch-1-1") is not None
    made = server.store.find(SECRET, "tidemark", names[2])
    assert made is not None
    assert made["immutable"] is True
