"""The fake API server does what the API's documentation promises; asked over HTTPS, without our client."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.harness.kubernetes.accounts import rules_of
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.kinds import CERTIFICATE, CONFIG_MAP, NAMESPACE, POD

SECRETS = "/api/v1/namespaces/tidemark/secrets"
APPLY = {"Content-Type": "application/apply-patch+yaml"}
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
async def session(server: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with _session(server, server.accounts.administrator()) as session:
        yield session


def _session(server: ApiServer, token: str) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=server.ca_file))
    return aiohttp.ClientSession(server.url, connector=connector, headers={"Authorization": f"Bearer {token}"})


def secret(name: str, version: str = "", **data: str) -> dict[str, Any]:
    encoded = {key.replace("_", "."): base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": name} | ({"resourceVersion": version} if version else {})
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}


async def ask(session: aiohttp.ClientSession, method: str, path: str, body: Any = None, **how: Any) -> tuple[int, Any]:
    async with session.request(method, path, data=json.dumps(body) if body is not None else None, **how) as response:
        return response.status, await response.json()


async def apply(
    session: aiohttp.ClientSession, body: dict[str, Any], manager: str, force: bool = False
) -> tuple[int, Any]:
    query = {"fieldManager": manager} | ({"force": "true"} if force else {})
    return await ask(session, "PATCH", f"{SECRETS}/{body['metadata']['name']}", body, headers=APPLY, params=query)


async def events(session: aiohttp.ClientSession, path: str, **params: str) -> list[dict[str, Any]]:
    """Everything that a watch of a second shows."""
    query = {"watch": "true", "timeoutSeconds": "1"} | params
    async with session.get(path, params=query) as response:
        assert response.status == 200
        return [json.loads(line) async for line in response.content]


async def test_second_create_and_update_of_old_version_conflict(session: aiohttp.ClientSession) -> None:
    status, made = await ask(session, "POST", SECRETS, secret("a", x="1"))
    assert (status, made["type"]) == (201, "Opaque")
    assert (await ask(session, "POST", SECRETS, secret("a", x="2")))[1]["reason"] == "AlreadyExists"

    version = made["metadata"]["resourceVersion"]
    status, changed = await ask(session, "PUT", f"{SECRETS}/a", secret("a", version, x="2"))
    assert (status, int(changed["metadata"]["resourceVersion"]) > int(version)) == (200, True)
    status, refused = await ask(session, "PUT", f"{SECRETS}/a", secret("a", version, x="3"))
    assert (status, refused["reason"]) == (409, "Conflict")
    status, same = await ask(session, "PUT", f"{SECRETS}/a", secret("a", x="2"))
    assert same["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]  # nothing changed


async def test_apply_creates_owns_conflicts_forces_and_removes(session: aiohttp.ClientSession) -> None:
    status, made = await apply(session, secret("a", x="1", y="1"), "us")
    assert status == 200
    assert [(one["manager"], one["operation"]) for one in made["metadata"]["managedFields"]] == [("us", "Apply")]
    assert made["metadata"]["managedFields"][0]["fieldsV1"]["f:data"] == {"f:x": {}, "f:y": {}}

    # Another one's fields with other values are a conflict, with the same values they are shared.
    status, refused = await apply(session, secret("a", x="2"), "them")
    assert (status, refused["details"]["causes"][0]["field"]) == (409, ".data.x")
    assert (await apply(session, secret("a", x="1", z="1"), "them"))[0] == 200
    assert (await apply(session, secret("a", x="2", z="1"), "them", force=True))[0] == 200

    # A field that is no longer applied is removed, unless another manager owns it as well.
    status, after = await apply(session, secret("a"), "us")
    assert set(after["data"]) == {"x", "z"}


async def test_update_takes_fields_over_as_another_manager(session: aiohttp.ClientSession) -> None:
    await apply(session, secret("a", x="1"), "us")
    edited = {"data": {"x": base64.b64encode(b"2").decode()}}
    _, after = await ask(session, "PATCH", f"{SECRETS}/a?fieldManager=us", edited, headers=MERGE)
    assert [(one["manager"], one["operation"]) for one in after["metadata"]["managedFields"]] == [("us", "Update")]
    assert (await apply(session, secret("a", x="1"), "us"))[0] == 409
    assert (await apply(session, secret("a", x="1"), "us", force=True))[0] == 200


async def test_forced_apply_over_another_version_conflicts(session: aiohttp.ClientSession) -> None:
    _, made = await apply(session, secret("a", x="1"), "us")
    version = made["metadata"]["resourceVersion"]
    assert (await apply(session, secret("a", version, x="2"), "us", force=True))[0] == 200
    assert (await apply(session, secret("a", version, x="3"), "us", force=True))[1]["reason"] == "Conflict"


async def test_invalid_object_is_refused(server: ApiServer, session: aiohttp.ClientSession) -> None:
    tls = secret("t", tls_crt="c", tls_key="k") | {"type": "kubernetes.io/tls"}
    assert (await ask(session, "POST", SECRETS, tls))[0] == 201
    assert (await ask(session, "PUT", f"{SECRETS}/t", tls | {"type": "Opaque"}))[0] == 422
    assert (await ask(session, "POST", SECRETS, secret("u") | {"type": "kubernetes.io/tls"}))[0] == 422
    assert (await ask(session, "POST", SECRETS, secret("b") | {"data": {"x": "no base64!"}}))[0] == 400
    assert (await ask(session, "POST", SECRETS, secret("Upper")))[0] == 422
    assert (await ask(session, "POST", SECRETS, secret("i", x="1") | {"immutable": True}))[0] == 201
    assert (await ask(session, "PUT", f"{SECRETS}/i", secret("i", x="2") | {"immutable": True}))[0] == 422
    assert (await ask(session, "POST", "/api/v1/namespaces/none/secrets", secret("a")))[0] == 404
    lease = {"metadata": {"name": "l"}, "spec": {"renewTime": "2026-01-02T03:04:05Z"}}
    leases = "/apis/coordination.k8s.io/v1/namespaces/tidemark/leases"
    assert (await ask(session, "POST", leases, lease))[0] == 400  # six digits or nothing
    server.store.terminate(NAMESPACE, "", "tidemark")
    status, refused = await ask(session, "POST", SECRETS, secret("new"))
    assert (status, refused["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")


async def test_generated_names_differ_and_pages_show_one_version(
    server: ApiServer, session: aiohttp.ClientSession
) -> None:
    for _ in range(5):
        body = {"metadata": {"generateName": "x-", "namespace": "tidemark"}}
        assert (await ask(session, "POST", SECRETS, body))[0] == 201
    _, first = await ask(session, "GET", f"{SECRETS}?limit=2")
    server.store.create(CONFIG_MAP, "tidemark", {"metadata": {"name": "between"}}, "test")
    _, second = await ask(session, "GET", SECRETS, params={"limit": "2", "continue": first["metadata"]["continue"]})
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert len({one["metadata"]["name"] for one in first["items"] + second["items"]}) == 4
    assert "kind" not in first["items"][0]
    server.store.compact()
    status, gone = await ask(session, "GET", SECRETS, params={"continue": second["metadata"]["continue"]})
    assert (status, gone["reason"]) == (410, "Expired")


async def test_watch_shows_changes_bookmarks_and_objects_that_leave_the_selection(
    server: ApiServer, session: aiohttp.ClientSession
) -> None:
    _, listed = await ask(session, "GET", "/api/v1/namespaces?labelSelector=on=yes")
    server.namespace("a", on="yes")
    server.namespace("b")
    server.namespace("a", on="no")
    version = listed["metadata"]["resourceVersion"]
    seen = await events(session, "/api/v1/namespaces", labelSelector="on=yes", resourceVersion=version)
    assert [(one["type"], one["object"]["metadata"]["name"]) for one in seen] == [("ADDED", "a"), ("DELETED", "a")]
    seen = await events(session, "/api/v1/namespaces", allowWatchBookmarks="true", fieldSelector="metadata.name=b")
    assert seen[0]["type"] == "ADDED"  # no version: the existing objects come first
    assert seen[-1]["type"] == "BOOKMARK"
    assert seen[-1]["object"]["metadata"]["resourceVersion"] == str(server.store.version)


async def test_watch_from_a_forgotten_version_is_gone(server: ApiServer, session: aiohttp.ClientSession) -> None:
    server.store.compact()
    (event,) = await events(session, SECRETS, resourceVersion="1001")
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    server.gone_as_event = False
    assert (await ask(session, "GET", SECRETS, params={"watch": "1", "resourceVersion": "1001"}))[0] == 410


async def test_closing_the_server_ends_its_watches(server: ApiServer, session: aiohttp.ClientSession) -> None:
    async with session.get(SECRETS, params={"watch": "true", "resourceVersion": "1001"}) as response:
        server.close_watches()
        async with asyncio.timeout(30):
            assert await response.content.read() == b""


async def test_token_review_checks_expiry_and_audience(server: ApiServer) -> None:
    pod = server.store.put(POD, {"metadata": {"name": "p", "namespace": "tidemark"}})
    uid = pod["metadata"]["uid"]
    sent = server.accounts.issue("tidemark", "agent", audience="tidemark", pod=("p", uid))
    reviewer = server.accounts.issue("tidemark", "authority")
    role = {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"]}
    server.accounts.rules |= rules_of(
        [
            {"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [role]},
            {
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "b"},
                "roleRef": {"kind": "ClusterRole", "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "namespace": "tidemark", "name": "authority"}],
            },
        ]
    )

    async def review(asking: aiohttp.ClientSession, token: str, audience: str) -> Any:
        body = {"spec": {"token": token, "audiences": [audience]}}
        return (await ask(asking, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", body))[1]["status"]

    async with _session(server, reviewer) as session:
        found = await review(session, sent, "tidemark")
        assert found["authenticated"]
        assert found["audiences"] == ["tidemark"]
        assert found["user"]["username"] == "system:serviceaccount:tidemark:agent"
        assert found["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [uid]
        assert "authenticated" not in await review(session, sent, "another")
        assert (await ask(session, "GET", SECRETS))[0] == 403
        server.store.delete(POD, "tidemark", "p")
        assert "authenticated" not in await review(session, sent, "tidemark")
        server.accounts.expire(reviewer)
        assert (await ask(session, "GET", SECRETS))[0] == 401
    async with _session(server, sent) as session:  # of another audience than the API server's
        assert (await ask(session, "GET", SECRETS))[0] == 401


async def test_custom_resource_and_its_status_are_changed_apart(
    server: ApiServer, session: aiohttp.ClientSession
) -> None:
    path = "/apis/cert-manager.io/v1/namespaces/tidemark/certificates/a"
    body = {"metadata": {"name": "a", "namespace": "tidemark"}, "spec": {"x": 1}, "status": {"revision": 1}}
    version = server.store.put(CERTIFICATE, body)["metadata"]["resourceVersion"]
    both = {"metadata": {"resourceVersion": version}, "spec": {"x": 2}, "status": {"revision": 2}}
    status, found = await ask(session, "PATCH", f"{path}/status", both, headers=MERGE)
    assert (status, found["spec"], found["status"]) == (200, {"x": 1}, {"revision": 2})
    assert (await ask(session, "PATCH", f"{path}/status", both, headers=MERGE))[0] == 409
    status, found = await ask(session, "PATCH", path, {"spec": {"x": 3}, "status": {"revision": 3}}, headers=MERGE)
    assert (status, found["spec"], found["status"]) == (200, {"x": 3}, {"revision": 2})
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}
    assert (await ask(session, "PATCH", path, {}, headers=strategic))[0] == 415
