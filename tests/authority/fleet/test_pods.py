"""The fleet from pods: who is expected, whose receipts count, and when nobody can say."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from lightkube.resources.coordination_v1 import Lease

from authority.fleet.members import PodIdentity, UnexpectedAgent
from authority.fleet.pods import AgentPod, PodMembers, agent_pod, expected
from authority.fleet.registry import FleetRegistry
from authority.fleet.view import FleetState, ReceiptBook, view
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.nudge import mounts
from authority.kubernetes.raw_objects import Pod
from tests.harness.authority.deployment import receipt
from tests.harness.authority.journal_builder import EPOCH, PLAYGROUND, START, JournalBuilder
from tests.harness.kubernetes.apiserver import Answering, ApiServer, internal_error
from tests.harness.kubernetes.kinds import POD
from tests.harness.waiting import eventually
from tidemark.receipt import PodClass
from tidemark.verify import Mark

MARK = Mark(1, "0" * 64)
THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def body(name: str, namespace: str = "nats", *, ready: bool = True, phase: str = "Running", **labels: str) -> Any:
    conditions = [
        {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": "2026-01-02T03:04:05Z"}
    ]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"tidemark.io/agent": "true"} | labels},
        "spec": {"containers": [{"name": "nats"}]},
        "status": {"phase": phase, "conditions": conditions},
    }


def agent(name: str, **changes: Any) -> AgentPod:
    made = AgentPod("nats", name, f"uid-{name}", PodClass.REQUIRED, True, False, True, 1)
    return replace(made, **changes)


def test_agent_pod_has_the_parts_that_the_fleet_needs() -> None:
    at = int(THEN.timestamp())
    raw = body("app-0", "apps")
    raw["metadata"] |= {"uid": "u", "labels": {"tidemark.io/class": "application"}}
    assert agent_pod(Pod(raw)) == AgentPod("apps", "app-0", "u", PodClass.APPLICATION, True, False, True, at)
    raw["metadata"] |= {"labels": {"tidemark.io/class": "else"}, "creationTimestamp": "2026-01-02T03:04:05Z"}
    raw["status"] = {"phase": "Pending"}
    assert agent_pod(Pod(raw)) == AgentPod("apps", "app-0", "u", PodClass.REQUIRED, False, False, False, at)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
INSTANTS = st.sampled_from(
    ["2026-01-02T03:04:05Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23"]
)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have each of these fields, or have it with something else in it, or lack it."""
    return st.fixed_dictionaries({}, optional={name: value | JSON for name, value in fields.items()})


CONDITIONS = optional(type=st.just("Ready"), status=st.sampled_from(["True", "False"]), lastTransitionTime=INSTANTS)
PODS = JSON | optional(
    metadata=optional(
        name=st.text(),
        namespace=st.text(),
        uid=st.text(),
        labels=optional(**{"tidemark.io/class": st.sampled_from(["required", "application"])}),
        creationTimestamp=INSTANTS,
        deletionTimestamp=INSTANTS,
    ),
    status=optional(
        phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
        startTime=INSTANTS,
        conditions=st.lists(CONDITIONS | JSON, max_size=3),
    ),
    spec=optional(volumes=st.lists(optional(secret=JSON, projected=optional(sources=JSON)) | JSON, max_size=3)),
)


def says(raw: Any, *path: str) -> Any:
    """What stands at this place, None where there is none."""
    for name in path:
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


@given(PODS)
def test_pod_with_any_content_stays_expected(raw: Any) -> None:
    pod = agent_pod(Pod(raw))
    assert not mounts(Pod(raw), "nats-ca-tls")
    is_over = says(raw, "status", "phase") in ("Pending", "Succeeded", "Failed")
    deleted = says(raw, "metadata", "deletionTimestamp")
    is_going = isinstance(deleted, str) and deleted != ""
    counted = expected([pod])
    assert len(counted) == (not is_over and not is_going)
    for one in counted:
        is_application = says(raw, "metadata", "labels", "tidemark.io/class") == "application"
        assert one.pod_class is (PodClass.APPLICATION if is_application else PodClass.REQUIRED)
        assert one.uid  # "" would let the receipt of any pod of this name count
        assert one.ready or not pod.unreadable  # never put into quarantine for what nobody understands
        fleet = view(counted, ReceiptBook(), "", PLAYGROUND.clock, one.since)
        assert [agent.state for agent in fleet.agents] == [FleetState.MISSING]


STRANGE: dict[str, Callable[[Any], None]] = {
    "an instant": lambda pod: pod["status"]["conditions"][0].update(lastTransitionTime="0000-01-01T00:00:00Z"),
    "no condition": lambda pod: pod["status"].update(conditions=["Ready"]),
    "no status": lambda pod: pod.pop("status"),
    "no uid": lambda pod: pod["metadata"].pop("uid"),
    "labels": lambda pod: pod["metadata"].update(labels=["tidemark.io/agent"]),
}


@pytest.mark.parametrize("damage", STRANGE)
async def test_unreadable_pod_hides_no_other_and_is_waited_for(
    server: ApiServer, client: KubernetesClient, damage: str
) -> None:
    async def damaged(request: web.Request, handle: Answering) -> web.StreamResponse:
        response = await handle(request)
        if request.path.endswith("/pods") and "watch" not in request.query and isinstance(response, web.Response):
            found = json.loads(response.body or b"")  # type: ignore[arg-type]
            STRANGE[damage](next(pod for pod in found["items"] if pod["metadata"]["name"] == "nats-1"))
            return web.json_response(found)
        return response

    server.namespace("nats")
    for name in ("nats-0", "nats-1"):
        server.store.put(POD, body(name))
    server.interfere = damaged
    complaints: list[str] = []
    members = PodMembers(client, ["nats"], lambda what, error, _: complaints.append(f"{what}: {error}"))
    task = asyncio.create_task(members.run())
    await eventually(lambda: names(members) == {"nats/nats-0", "nats/nats-1"}, "both pods")
    assert [one.pod_class for one in members.expected() or ()] == [PodClass.REQUIRED] * 2
    server.store.put(POD, body("nats-2"))
    await eventually(lambda: "nats/nats-2" in (names(members) or ()), "the pod that came later")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [line.partition(": expected a pod, found ")[0] for line in complaints] == (
        [] if damage == "labels" else ["pod nats/nats-1: pod nats/nats-1"]
    )


def test_running_pods_that_are_not_being_deleted_are_expected() -> None:
    pods = [agent("c"), agent("a", is_running=False), agent("d", is_terminating=True), agent("b", is_ready=False)]
    assert [(one.name, one.uid, one.ready) for one in expected(pods)] == [
        ("nats/b", "uid-b", False),
        ("nats/c", "uid-c", True),
    ]


@asynccontextmanager
async def watched(client: KubernetesClient, *namespaces: str) -> AsyncIterator[PodMembers]:
    members = PodMembers(client, namespaces, lambda *_: None)
    task = asyncio.create_task(members.run())
    yield members
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def names(members: PodMembers) -> set[str] | None:
    found = members.expected()
    return None if found is None else {one.name for one in found}


async def test_members_follow_pods_that_come_become_ready_and_go(server: ApiServer, client: KubernetesClient) -> None:
    for namespace in ("nats", "apps", "other"):
        server.namespace(namespace)
    server.store.put(POD, body("nats-0"))
    server.store.put(POD, body("stranger", "other"))
    changes: list[None] = []
    async with watched(client, "nats", "apps") as members:
        members.subscribe(lambda: changes.append(None))
        assert names(members) is None
        await eventually(lambda: names(members) == {"nats/nats-0"}, "the pod that is there")
        server.store.put(POD, body("nats-0", "apps", phase="Pending"))
        server.store.put(POD, body("nats-1", ready=False))
        await eventually(lambda: names(members) == {"nats/nats-0", "nats/nats-1"}, "a pod that starts")
        server.store.put(POD, body("nats-0", "apps"))
        await eventually(
            lambda: names(members) == {"apps/nats-0", "nats/nats-0", "nats/nats-1"}, "one of the same name"
        )
        server.store.terminate(POD, "nats", "nats-1")
        await eventually(lambda: names(members) == {"apps/nats-0", "nats/nats-0"}, "one that is going")
        server.store.delete(POD, "apps", "nats-0")
        await eventually(lambda: names(members) == {"nats/nats-0"}, "one that is gone")
    assert len(changes) >= 5  # a report of each change, since each may open a gate


async def test_watch_continues_after_a_bookmark(server: ApiServer, client: KubernetesClient) -> None:
    server.namespace("nats")
    server.bookmark_seconds = 0.02
    failures: list[str] = []
    members = PodMembers(client, ["nats"], lambda _, error, __: failures.append(error))
    task = asyncio.create_task(members.run())
    version = server.store.version
    server.namespace("other")
    await eventually(lambda: server.bookmarked > version, "a bookmark")
    server.store.put(POD, body("nats-0"))
    await eventually(lambda: names(members) == {"nats/nats-0"}, "what came after it")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert failures == []


async def test_watches_of_many_namespaces_leave_connections_for_requests(
    server: ApiServer, client: KubernetesClient
) -> None:
    """Each namespace's watch keeps one; the Lease is renewed over the same client."""
    namespaces = [f"team-{number}" for number in range(101)]
    for namespace in namespaces:
        server.namespace(namespace)
    async with watched(client, *namespaces) as members:
        await eventually(lambda: server.watches == len(namespaces), "every watch")
        assert names(members) == set()
        async with asyncio.timeout(5):
            assert await client.get(Lease, "tidemark-authority", "tidemark") is None


async def test_unreadable_namespace_makes_the_fleet_unreadable(server: ApiServer, client: KubernetesClient) -> None:
    async def refuse(request: web.Request, handle: Answering) -> web.StreamResponse:
        return internal_error() if "/apps/pods" in request.path else await handle(request)

    server.namespace("nats")
    server.namespace("apps")
    server.interfere = refuse
    async with watched(client, "nats", "apps") as members:
        registry = FleetRegistry(members, PLAYGROUND.clock)
        await eventually(lambda: server.watches == 1, "the readable namespace")
        assert not registry.fleet(JournalBuilder().history, START).readable
        server.interfere = None
        await eventually(lambda: members.expected() is not None, "the fleet")
        assert registry.fleet(JournalBuilder().history, START).readable


async def test_receipt_counts_for_the_pod_uid_that_sent_it(server: ApiServer, client: KubernetesClient) -> None:
    server.namespace("nats")
    builder = JournalBuilder()
    builder.prepare(EPOCH, START)
    newest = builder.history.newest
    assert newest is not None
    proven = Mark(newest.statement.sequence, newest.digest)
    uid = server.store.put(POD, body("nats-0"))["metadata"]["uid"]
    sent = replace(receipt("nats-0", proven, None, 1), uid=uid)
    async with watched(client, "nats") as members:
        registry = FleetRegistry(members, PLAYGROUND.clock)
        await eventually(members.expected, "the pod")
        assert registry.receive(sent, PodIdentity("nats", "nats-0", uid), builder.history, START)
        (view,) = registry.fleet(builder.history, START).agents
        assert (view.name, view.state) == ("nats/nats-0", FleetState.PROVEN)

        # Another pod of the same name has another uid, and has proven nothing.
        server.store.delete(POD, "nats", "nats-0")
        again = server.store.put(POD, body("nats-0"))["metadata"]["uid"]
        await eventually(lambda: [one.uid for one in members.expected() or ()] == [again], "the next pod")
        (view,) = registry.fleet(builder.history, START).agents
        assert view.state is FleetState.MISSING
        with pytest.raises(UnexpectedAgent, match=f"found none with uid '{uid}'"):
            registry.receive(replace(sent, number=2), PodIdentity("nats", "nats-0", uid), builder.history, START)


@pytest.mark.parametrize(
    ("sender", "complaint"),
    [
        (None, "expected the projected token of its pod"),
        (PodIdentity("nats", "nats-1", "u"), "set TIDEMARK_POD and TIDEMARK_POD_UID from the downward API"),
        (PodIdentity("nats", "nats-0", "another"), "set TIDEMARK_POD and TIDEMARK_POD_UID from the downward API"),
        (PodIdentity("other", "nats-0", "uid-nats-0"), "in a namespace of kubernetes.fleet"),
    ],
)
async def test_receipt_with_another_pods_token_is_refused(
    client: KubernetesClient, sender: PodIdentity | None, complaint: str
) -> None:
    members = PodMembers(client, ["nats"], lambda *_: None)
    with pytest.raises(UnexpectedAgent, match=complaint):
        members.admit(receipt("nats-0", MARK, None, 1), sender)
