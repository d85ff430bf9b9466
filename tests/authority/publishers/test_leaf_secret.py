"""A workload's leaf in a Secret of type kubernetes.io/tls."""

import asyncio
import base64
from typing import Any

import pytest

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.nudge import NUDGE_ANNOTATION, Nudge
from authority.publishers.interface import PublishError
from authority.publishers.leaf_secret import KubernetesLeafStore
from tests.harness.contract.issued_bundles import IssuedBundles
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.kinds import POD, SECRET
from tests.harness.waiting import eventually


@pytest.fixture
def store(client: KubernetesClient) -> KubernetesLeafStore:
    return KubernetesLeafStore(client, "tidemark", "nats-0-tls")


def found(server: ApiServer) -> dict[str, Any]:
    secret = server.store.find(SECRET, "tidemark", "nats-0-tls")
    assert secret is not None
    return secret


async def test_leaf_is_written_read_and_replaced(
    server: ApiServer, store: KubernetesLeafStore, bundles: IssuedBundles
) -> None:
    bundle = await bundles.bundle(1)
    first, second = await bundles.leaf(bundle), await bundles.leaf(bundle)
    assert await store.read() is None
    await store.write(first)
    assert found(server)["type"] == "kubernetes.io/tls"
    assert set(found(server)["data"]) == {"tls.crt", "tls.key"}
    assert base64.b64decode(found(server)["data"]["tls.key"]) == first.key_pem
    assert await store.read() == first.certificate_pem
    await store.write(second)
    assert await store.read() == second.certificate_pem


async def test_unusable_leaf_counts_as_none(
    server: ApiServer, store: KubernetesLeafStore, bundles: IssuedBundles
) -> None:
    bundle = await bundles.bundle(1)
    first, second = await bundles.leaf(bundle), await bundles.leaf(bundle)
    await store.write(first)
    other = {"data": {"tls.key": base64.b64encode(second.key_pem).decode()}}
    server.store.merge(SECRET, "tidemark", "nats-0-tls", other, "kubectl-edit")
    assert await store.read() is None
    await store.write(second)
    assert await store.read() == second.certificate_pem


async def test_write_over_an_unread_version_fails(
    server: ApiServer, store: KubernetesLeafStore, client: KubernetesClient, bundles: IssuedBundles
) -> None:
    bundle = await bundles.bundle(1)
    other = KubernetesLeafStore(client, "tidemark", "nats-0-tls")
    await other.read()
    await store.write(await bundles.leaf(bundle))
    with pytest.raises(PublishError, match="found that it exists"):
        await other.write(await bundles.leaf(bundle))
    await other.read()
    newer = await bundles.leaf(bundle)
    await store.write(newer)
    with pytest.raises(PublishError, match="409"):
        await other.write(await bundles.leaf(bundle))
    assert await store.read() == newer.certificate_pem


async def test_secret_of_another_type_is_refused(
    server: ApiServer, store: KubernetesLeafStore, bundles: IssuedBundles
) -> None:
    server.store.put(SECRET, {"metadata": {"name": "nats-0-tls", "namespace": "tidemark"}, "type": "Opaque"})
    assert await store.read() is None
    with pytest.raises(PublishError, match=r"tidemark/nats-0-tls: expected a Secret of type kubernetes.io/tls"):
        await store.write(await bundles.leaf(await bundles.bundle(1)))


async def test_secret_deleted_before_the_write_is_created_with_its_type(
    server: ApiServer, store: KubernetesLeafStore, bundles: IssuedBundles
) -> None:
    """A type cannot be changed: an Opaque one would be refused for ever."""
    bundle = await bundles.bundle(1)
    await store.write(await bundles.leaf(bundle))
    assert await store.read() is not None
    server.store.delete(SECRET, "tidemark", "nats-0-tls")
    await store.write(await bundles.leaf(bundle))
    assert found(server)["type"] == "kubernetes.io/tls"


async def test_pods_that_mount_the_secret_are_nudged(
    server: ApiServer, client: KubernetesClient, bundles: IssuedBundles
) -> None:
    projected = {"name": "leaf", "projected": {"sources": [{"secret": {"name": "nats-0-tls"}}]}}
    labels = {"tidemark.io/agent": "true"}
    for name, volumes in (("nats-0", [projected]), ("nats-1", [])):
        metadata = {"name": name, "namespace": "tidemark", "labels": labels}
        server.store.put(POD, {"metadata": metadata, "spec": {"containers": [], "volumes": volumes}})
    nudge = Nudge(client, lambda _: None)
    store = KubernetesLeafStore(client, "tidemark", "nats-0-tls", nudge)
    await store.write(await bundles.leaf(await bundles.bundle(1)))
    task = asyncio.create_task(nudge.run())

    def annotations(name: str) -> Any:
        one = server.store.find(POD, "tidemark", name)
        assert one is not None
        return one["metadata"].get("annotations")

    await eventually(lambda: annotations("nats-0"), "the nudge")
    assert annotations("nats-0") == {NUDGE_ANNOTATION: found(server)["metadata"]["resourceVersion"]}
    assert annotations("nats-1") is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
