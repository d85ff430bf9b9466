"""The Kubernetes publisher against the API server: every labelled namespace, nothing over a higher sequence."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.nudge import NUDGE_ANNOTATION, Nudge
from authority.publishers.interface import PublishError, PublishOutcome, PublishResult
from authority.publishers.kubernetes import LIVE_SECRET, TRUST_CONFIG_MAP, KubernetesPublisher
from tests.harness.contract.issued_bundles import IssuedBundles
from tests.harness.kubernetes.apiserver import Answering, ApiServer, internal_error
from tests.harness.kubernetes.bundle_secrets import secret_of
from tests.harness.kubernetes.kinds import CONFIG_MAP, NAMESPACE, POD, SECRET
from tests.harness.waiting import eventually
from tidemark.bundle import Bundle, Cause
from tidemark.trust import Trust

ENABLED = {"tidemark.io/bundle": "enabled"}


@pytest.fixture
def publisher(server: ApiServer, client: KubernetesClient, bundles: IssuedBundles) -> KubernetesPublisher:
    server.namespace("nats", **ENABLED)
    server.namespace("apps", **ENABLED)
    server.namespace("other")
    return KubernetesPublisher(client, bundles.trust, "tidemark")


def live(server: ApiServer, namespace: str) -> Bundle | None:
    found = server.store.find(SECRET, namespace, LIVE_SECRET)
    if found is None:
        return None
    data = {name: base64.b64decode(value) for name, value in found["data"].items()}
    return Bundle(data["ca.crt"], data["bundle.note"]) if len(data) == 2 else None


def pod(name: str, namespace: str, secret: str = LIVE_SECRET, agent: str = "true") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"tidemark.io/agent": agent}},
        "spec": {"containers": [{"name": "x"}], "volumes": [{"name": "bundle", "secret": {"secretName": secret}}]},
    }


async def test_every_labelled_namespace_shows_the_bundle(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    first = await bundles.bundle(1)
    assert (await publisher.publish(first)).outcome is PublishOutcome.WRITTEN
    assert live(server, "nats") == live(server, "apps") == first.bundle
    assert live(server, "other") is None
    assert (await publisher.publish(first)).outcome is PublishOutcome.UNCHANGED

    second = await bundles.bundle(2)
    assert (await publisher.publish(second)).outcome is PublishOutcome.WRITTEN
    found = server.store.find(SECRET, "nats", LIVE_SECRET)
    assert found is not None
    assert live(server, "nats") == second.bundle
    assert found["metadata"]["annotations"] == {"tidemark.io/sequence": "2"}
    assert found["type"] == "Opaque"
    managers = {(one["manager"], one["operation"]): one["fieldsV1"] for one in found["metadata"]["managedFields"]}
    assert managers["tidemark-authority", "Apply"]["f:data"] == {"f:bundle.note": {}, "f:ca.crt": {}}
    assert {one.target: one.bundle for one in await publisher.read()} == {
        "secret nats/nats-ca-tls": second.bundle,
        "secret apps/nats-ca-tls": second.bundle,
    }


async def test_trust_file_is_created_and_never_changed(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    theirs = {"metadata": {"name": TRUST_CONFIG_MAP, "namespace": "apps"}, "data": {"trust.toml": "theirs"}}
    server.store.put(CONFIG_MAP, theirs)
    for sequence in (1, 2):
        await publisher.publish(await bundles.bundle(sequence))
    kept, made = (server.store.find(CONFIG_MAP, namespace, TRUST_CONFIG_MAP) for namespace in ("apps", "nats"))
    assert kept is not None
    assert kept["data"] == {"trust.toml": "theirs"}
    assert made is not None
    assert Trust.parse(made["data"]["trust.toml"].encode()) == bundles.trust
    assert server.store.find(CONFIG_MAP, "other", TRUST_CONFIG_MAP) is None


async def test_failed_trust_file_delays_no_bundle(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    async def refuse(request: web.Request, handle: Answering) -> web.StreamResponse:
        is_made = request.method == "POST" and request.path.endswith("/configmaps")
        return internal_error() if is_made else await handle(request)

    server.interfere = refuse
    bundle = await bundles.bundle(1)
    brought = await publisher.publish(bundle)
    assert len(brought.failed) == 2
    assert all(TRUST_CONFIG_MAP in failure for failure in brought.failed)
    assert live(server, "nats") == live(server, "apps") == bundle.bundle


@pytest.mark.parametrize("edit", [{"data": {"ca.crt": "AAAA"}}, {"data": {"bundle.note": None}}, {"data": None}])
async def test_edited_or_deleted_secret_is_restored(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles, edit: dict[str, Any]
) -> None:
    bundle = await bundles.bundle(1)
    await publisher.publish(bundle)
    server.store.merge(SECRET, "nats", LIVE_SECRET, edit, "kubectl-edit")
    assert (await publisher.publish(bundle)).outcome is PublishOutcome.WRITTEN
    assert live(server, "nats") == bundle.bundle
    server.store.delete(SECRET, "nats", LIVE_SECRET)
    assert (await publisher.publish(bundle)).outcome is PublishOutcome.WRITTEN
    assert live(server, "nats") == bundle.bundle


async def test_fields_of_other_managers_stay(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    await publisher.publish(await bundles.bundle(1))
    server.store.merge(SECRET, "nats", LIVE_SECRET, {"metadata": {"labels": {"team": "bus"}}}, "somebody")
    await publisher.publish(await bundles.bundle(2))
    found = server.store.find(SECRET, "nats", LIVE_SECRET)
    assert found is not None
    assert found["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "tidemark", "team": "bus"}


async def test_higher_sequence_is_not_written_over(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    newer = await bundles.bundle(7)
    server.store.put(SECRET, secret_of(newer))
    brought = await publisher.publish(await bundles.bundle(6))
    assert brought == PublishResult(written=("secret apps/nats-ca-tls",), newer=("secret nats/nats-ca-tls",))
    assert live(server, "nats") == newer.bundle


async def test_higher_sequence_is_reported_though_others_fail(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    server.store.put(SECRET, secret_of(await bundles.bundle(7)))
    tls = {"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}
    server.store.put(SECRET, secret_of(await bundles.bundle(1), LIVE_SECRET, "apps") | tls)
    brought = await publisher.publish(await bundles.bundle(6))
    assert (brought.outcome, brought.newer) == (PublishOutcome.NEWER, ("secret nats/nats-ca-tls",))
    (failure,) = brought.failed
    assert failure.startswith("secret apps/nats-ca-tls: expected a Secret of type Opaque")


async def test_second_text_of_one_sequence_is_an_error(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    server.store.put(SECRET, secret_of(await bundles.bundle(3, Cause.FORCED)))
    (failure,) = (await publisher.publish(await bundles.bundle(3))).failed
    assert "two authorities" in failure


@pytest.mark.parametrize("standing", [True, False])
async def test_newer_bundle_written_meanwhile_stays(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles, standing: bool
) -> None:
    newer = await bundles.bundle(9)
    if standing:
        await publisher.publish(await bundles.bundle(1))
    before = _once(lambda request: request.method in ("PATCH", "POST") and "/nats/secrets" in request.path)

    async def overtake(request: web.Request, handle: Answering) -> web.StreamResponse:
        if before(request):
            server.store.put(SECRET, secret_of(newer))
        return await handle(request)

    server.interfere = overtake
    await publisher.publish(await bundles.bundle(8))
    assert live(server, "nats") == newer.bundle


def _once(condition: Callable[[web.Request], bool]) -> Callable[[web.Request], bool]:
    seen = False

    def first(request: web.Request) -> bool:
        nonlocal seen
        is_first, seen = condition(request) and not seen, seen or condition(request)
        return is_first

    return first


async def test_lost_answer_changes_nothing(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    for sequence in (1, 2):
        lose = _once(lambda request: request.method in ("POST", "PATCH") and "/nats/secrets" in request.path)

        async def lost(
            request: web.Request, handle: Answering, lose: Callable[[web.Request], bool] = lose
        ) -> web.StreamResponse:
            response = await handle(request)
            return internal_error() if lose(request) else response

        server.interfere = lost
        bundle = await bundles.bundle(sequence)
        assert (await publisher.publish(bundle)).outcome is PublishOutcome.WRITTEN
        assert live(server, "nats") == live(server, "apps") == bundle.bundle


async def test_failing_namespace_delays_no_other(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    bundle = await bundles.bundle(1)
    tls = secret_of(bundle) | {"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}
    server.store.put(SECRET, tls)
    (failure,) = (await publisher.publish(bundle)).failed
    assert failure.startswith("secret nats/nats-ca-tls: expected a Secret of type Opaque, found kubern")
    assert live(server, "apps") == bundle.bundle

    server.store.delete(SECRET, "nats", LIVE_SECRET)
    immutable = secret_of(bundle) | {"immutable": True, "data": {}}
    server.store.put(SECRET, immutable)
    (failure,) = (await publisher.publish(bundle)).failed
    assert "found it immutable; delete it" in failure
    server.store.delete(SECRET, "nats", LIVE_SECRET)
    foreign = secret_of(bundle) | {"data": {}}
    foreign["metadata"]["annotations"] = {"cert-manager.io/certificate-name": "nats"}
    server.store.put(SECRET, foreign)
    (failure,) = (await publisher.publish(bundle)).failed
    assert "cert-manager's Certificate 'nats'" in failure


async def test_unreadable_secret_is_named_and_hides_no_other(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    """Whoever may write a Secret of this name anywhere may write what no model of Kubernetes reads."""

    async def damaged(request: web.Request, handle: Answering) -> web.StreamResponse:
        response = await handle(request)
        if request.method == "GET" and request.path.endswith("/secrets") and isinstance(response, web.Response):
            found = json.loads(response.body or b"")  # type: ignore[arg-type]
            for one in found["items"]:
                if one["metadata"]["namespace"] in ("other", "apps"):
                    one["metadata"]["managedFields"] = [{"time": "0000-01-01T00:00:00Z"}]
            return web.json_response(found)
        return response

    first, second = await bundles.bundle(1), await bundles.bundle(2)
    await publisher.publish(first)
    server.store.put(SECRET, secret_of(first, namespace="other"))
    server.interfere = damaged
    brought = await publisher.publish(second)
    assert brought.written == ("secret nats/nats-ca-tls",)
    (failure,) = brought.failed
    assert failure.startswith("secret apps/nats-ca-tls: expected a Secret, found Invalid RFC3339 encoded datetime")
    assert live(server, "nats") == second.bundle
    looks = {one.target: one for one in await publisher.read()}
    assert looks["secret nats/nats-ca-tls"].bundle == second.bundle
    assert looks["secret apps/nats-ca-tls"].error == failure
    assert len(looks) == 2


async def test_terminating_namespace_is_left_alone(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    server.store.terminate(NAMESPACE, "", "nats")
    brought = await publisher.publish(await bundles.bundle(1))
    assert (brought.outcome, brought.failed) == (PublishOutcome.WRITTEN, ())
    assert live(server, "nats") is None


async def test_unreachable_api_server_is_an_error(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    await server.stop()
    with pytest.raises(PublishError, match="expected to list namespaces"):
        await publisher.publish(await bundles.bundle(1))
    with pytest.raises(PublishError, match="expected to list namespaces"):
        await publisher.read()
    await server.start()


async def test_pods_that_mount_a_changed_secret_are_nudged(
    server: ApiServer, client: KubernetesClient, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    for one in (pod("nats-0", "nats"), pod("nats-1", "nats", "another"), pod("nats-2", "nats", agent="no")):
        server.store.put(POD, one)
    complaints: list[str] = []
    nudge = Nudge(client, complaints.append)
    nudging = KubernetesPublisher(client, bundles.trust, "tidemark", nudge)

    def nudged() -> dict[str, str]:
        pods = {one["metadata"]["name"]: one["metadata"] for one in server.store.select(POD, "nats", lambda _: True)}
        return {
            name: found["annotations"][NUDGE_ANNOTATION] for name, found in pods.items() if found.get("annotations")
        }

    assert (await nudging.publish(await bundles.bundle(1))).outcome is PublishOutcome.WRITTEN
    assert nudged() == {}, "its delivery waits for nothing"
    task = asyncio.create_task(nudge.run(again_seconds=0.05))
    await eventually(lambda: nudged() == {"nats-0": "1"}, "the nudge")

    async def refuse(request: web.Request, handle: Answering) -> web.StreamResponse:
        return internal_error() if request.method == "PATCH" and "/pods/" in request.path else await handle(request)

    server.interfere = refuse
    for number in range(3, 60):
        server.store.put(POD, pod(f"nats-{number}", "nats"))
    server.requests.clear()
    second = await bundles.bundle(2)
    assert (await nudging.publish(second)).outcome is PublishOutcome.WRITTEN
    await eventually(lambda: complaints, "a complaint")
    assert "by themselves" in complaints[0]
    patched = [line for line in server.requests if line.startswith("PATCH") and "/pods/" in line]
    assert len(set(patched)) < 57, "where nobody answers not every pod is tried"
    server.interfere = None
    await eventually(lambda: set(nudged().values()) == {"2"} and len(nudged()) == 58, "all of them")
    server.requests.clear()
    await nudging.publish(second)
    await asyncio.sleep(0.2)
    assert not [line for line in server.requests if "/pods" in line], "once is enough"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def kept(publisher: KubernetesPublisher, publish: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Publishes whenever the publisher says that something changed, as the sequencer does."""
    changed = asyncio.Event()
    publisher.watch(changed)

    async def keep() -> None:
        while True:
            await publish()
            await changed.wait()
            changed.clear()

    tasks = [asyncio.create_task(publisher.run(lambda *_: None)), asyncio.create_task(keep())]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_new_label_or_deleted_secret_wakes_the_publisher(
    server: ApiServer, publisher: KubernetesPublisher, bundles: IssuedBundles
) -> None:
    bundle = await bundles.bundle(1)
    async with kept(publisher, lambda: publisher.publish(bundle)):
        await eventually(lambda: live(server, "nats") == bundle.bundle, "the first")
        server.namespace("other", **ENABLED)
        await eventually(lambda: live(server, "other") == bundle.bundle, "the namespace labelled later")
        server.store.delete(SECRET, "nats", LIVE_SECRET)
        await eventually(lambda: live(server, "nats") == bundle.bundle, "the deleted one to come back")
        server.store.merge(SECRET, "nats", LIVE_SECRET, {"data": {"ca.crt": "AAAA"}}, "kubectl-edit")
        await eventually(lambda: live(server, "nats") == bundle.bundle, "the edited one to come back")
