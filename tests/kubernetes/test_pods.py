"""The fleet from pods: who is expected, whose receipts count, and when nobody can say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from lightkube.models.core_v1 import PodCondition, PodStatus
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from authority.fleet import FleetState
from authority.kubernetes_client import KubernetesClient
from authority.pods import AgentPod, PodMembers, agent_pod, expected
from authority.roster import Roster, UnexpectedAgent
from authority.tokens import Sender
from tests.authority.deployment import receipt
from tests.authority.stories import EPOCH, PLAYGROUND, START, Story
from tests.kubernetes.apiserver import Answering, ApiServer, internal_error
from tests.kubernetes.kinds import POD
from tests.kubernetes.waiting import until
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


def test_what_is_kept_of_a_pod() -> None:
    ready = PodCondition(type="Ready", status="True", lastTransitionTime=THEN)
    metadata = ObjectMeta(name="app-0", namespace="apps", uid="u", labels={"tidemark.io/class": "application"})
    pod = Pod(metadata=metadata, status=PodStatus(phase="Running", conditions=[ready]))
    at = int(THEN.timestamp())
    assert agent_pod(pod) == AgentPod("apps", "app-0", "u", PodClass.APPLICATION, True, False, True, at)
    odd = Pod(metadata=ObjectMeta(name="x", labels={"tidemark.io/class": "else"}, creationTimestamp=THEN))
    assert agent_pod(odd) == AgentPod("", "x", "", PodClass.REQUIRED, False, False, False, at)


def test_expected_are_running_pods_that_nobody_deletes() -> None:
    pods = [agent("c"), agent("a", is_running=False), agent("d", is_terminating=True), agent("b", is_ready=False)]
    assert [(one.name, one.uid, one.ready) for one in expected(pods)] == [
        ("nats/b", "uid-b", False),
        ("nats/c", "uid-c", True),
    ]


@asynccontextmanager
async def watched(client: KubernetesClient, *namespaces: str) -> AsyncIterator[PodMembers]:
    members = PodMembers(client, namespaces, lambda: None, lambda *_: None)
    task = asyncio.create_task(members.run())
    yield members
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def names(members: PodMembers) -> set[str] | None:
    found = members.expected()
    return None if found is None else {one.name for one in found}


async def test_pods_come_become_ready_and_go(server: ApiServer, client: KubernetesClient) -> None:
    for namespace in ("nats", "apps", "other"):
        server.namespace(namespace)
    server.store.put(POD, body("nats-0"))
    server.store.put(POD, body("stranger", "other"))
    async with watched(client, "nats", "apps") as members:
        assert names(members) is None
        await until(lambda: names(members) == {"nats/nats-0"}, "the pod that is there")
        server.store.put(POD, body("nats-0", "apps", phase="Pending"))
        server.store.put(POD, body("nats-1", ready=False))
        await until(lambda: names(members) == {"nats/nats-0", "nats/nats-1"}, "a pod that starts")
        server.store.put(POD, body("nats-0", "apps"))
        await until(lambda: names(members) == {"apps/nats-0", "nats/nats-0", "nats/nats-1"}, "one of the same name")
        server.store.terminate(POD, "nats", "nats-1")
        await until(lambda: names(members) == {"apps/nats-0", "nats/nats-0"}, "one that is going")
        server.store.delete(POD, "apps", "nats-0")
        await until(lambda: names(members) == {"nats/nats-0"}, "one that is gone")


async def test_a_bookmark_is_an_empty_pod(server: ApiServer, client: KubernetesClient) -> None:
    server.namespace("nats")
    server.bookmark_seconds = 0.02
    failures: list[str] = []
    members = PodMembers(client, ["nats"], lambda: None, lambda _, error, __: failures.append(error))
    task = asyncio.create_task(members.run())
    version = server.store.version
    server.namespace("other")
    await until(lambda: server.bookmarked > version, "a bookmark")
    server.store.put(POD, body("nats-0"))
    await until(lambda: names(members) == {"nats/nats-0"}, "what came after it")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert failures == []


async def test_one_unreadable_namespace_makes_the_fleet_unreadable(server: ApiServer, client: KubernetesClient) -> None:
    async def refuse(request: web.Request, handle: Answering) -> web.StreamResponse:
        return internal_error() if "/apps/pods" in request.path else await handle(request)

    server.namespace("nats")
    server.namespace("apps")
    server.interfere = refuse
    async with watched(client, "nats", "apps") as members:
        roster = Roster(members, PLAYGROUND.clock)
        await until(lambda: server.watches == 1, "the readable namespace")
        assert not roster.fleet(Story().history, START).readable
        server.interfere = None
        await until(lambda: members.expected() is not None, "the fleet")
        assert roster.fleet(Story().history, START).readable


async def test_a_receipt_counts_for_the_pod_uid_that_sent_it(server: ApiServer, client: KubernetesClient) -> None:
    server.namespace("nats")
    story = Story()
    story.prepare(EPOCH, START)
    newest = story.history.newest
    assert newest is not None
    proven = Mark(newest.statement.sequence, newest.digest)
    uid = server.store.put(POD, body("nats-0"))["metadata"]["uid"]
    sent = replace(receipt("nats-0", proven, None, 1), uid=uid)
    async with watched(client, "nats") as members:
        roster = Roster(members, PLAYGROUND.clock)
        await until(members.expected, "the pod")
        assert roster.receive(sent, Sender("nats", "nats-0", uid), story.history, START)
        (view,) = roster.fleet(story.history, START).agents
        assert (view.name, view.state) == ("nats/nats-0", FleetState.PROVEN)

        # Another pod of the same name has another uid, and has proven nothing.
        server.store.delete(POD, "nats", "nats-0")
        again = server.store.put(POD, body("nats-0"))["metadata"]["uid"]
        await until(lambda: [one.uid for one in members.expected() or ()] == [again], "the next pod")
        (view,) = roster.fleet(story.history, START).agents
        assert view.state is FleetState.MISSING
        with pytest.raises(UnexpectedAgent, match=f"found none with uid '{uid}'"):
            roster.receive(replace(sent, number=2), Sender("nats", "nats-0", uid), story.history, START)


@pytest.mark.parametrize(
    ("sender", "complaint"),
    [
        (None, "expected the projected token of its pod"),
        (Sender("nats", "nats-1", "u"), "set TIDEMARK_POD and TIDEMARK_POD_UID from the downward API"),
        (Sender("nats", "nats-0", "another"), "set TIDEMARK_POD and TIDEMARK_POD_UID from the downward API"),
        (Sender("other", "nats-0", "uid-nats-0"), "in a namespace of kubernetes.fleet"),
    ],
)
async def test_receipts_of_others_are_refused(client: KubernetesClient, sender: Sender | None, complaint: str) -> None:
    members = PodMembers(client, ["nats"], lambda: None, lambda *_: None)
    with pytest.raises(UnexpectedAgent, match=complaint):
        members.admit(receipt("nats-0", MARK, None, 1), sender)
