"""cert-manager's Certificates after a withdrawal: which are marked, and how; none twice, and none holds others up."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from authority.config.kubernetes import CertManagerConfig
from authority.controllers.cert_manager import CertManagerController
from authority.controllers.cert_manager_api import Certificate, CertManagerClient, issuance, status_patch
from authority.controllers.context import ControllerContext
from authority.journal.store import JournalStore
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.credentials import Kubeconfig
from authority.kubernetes.errors import ObjectConflict
from authority.kubernetes.selection import Selection
from authority.rotation.actions import Step
from authority.rotation.events import CertificateMarked, Event, StepFailed
from authority.rotation.reissue import Issuance
from tests.harness.authority.deployment import AuthorityDeployment, ask
from tests.harness.authority.journal_builder import PLAYGROUND, START, TRUST, revoked, running
from tests.harness.authority.memory_backends import Effects, MemoryJournal
from tests.harness.kubernetes.accounts import rules_of
from tests.harness.kubernetes.apiserver import Answering, ApiServer
from tests.harness.kubernetes.kinds import CERTIFICATE
from tests.harness.manifests.build import build
from tests.harness.waiting import eventually

BEFORE = 1_800_000_000
TOLERANCE = 5
READY = {"type": "Ready", "status": "True", "reason": "Ready", "message": "up to date"}
ONE = Issuance("nats", "nats-server", "7", 2, "tidemark", BEFORE - 600, None, (READY,))


def instant(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Which Certificates.


def test_status_patch_marks_as_cmctl_and_keeps_other_conditions() -> None:
    old = {"type": "Issuing", "status": "False", "reason": "StepFailed"}
    assert status_patch(replace(ONE, conditions=(old, READY)), BEFORE) == {
        "metadata": {"resourceVersion": "7"},
        "status": {
            "conditions": [
                READY,
                {
                    "type": "Issuing",
                    "status": "True",
                    "reason": "ManuallyTriggered",
                    "message": "Certificate re-issuance triggered by tidemark-authority: a CA was withdrawn",
                    "lastTransitionTime": "2027-01-15T08:00:00Z",
                    "observedGeneration": 2,
                },
            ]
        },
    }


# Since when.


# Through the API server.


def certificate(server: ApiServer, name: str, not_before: float, issuer: str = "tidemark") -> None:
    """As cert-manager leaves it once it has issued."""
    body: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "nats"},
        "spec": {"secretName": f"{name}-tls", "issuerRef": {"name": issuer}, "dnsNames": ["localhost"]},
        "status": {"conditions": [READY], "notBefore": instant(not_before), "revision": 1},
    }
    server.store.put(CERTIFICATE, body)


def condition(server: ApiServer, name: str) -> dict[str, Any] | None:
    """The condition Issuing."""
    found = server.store.find(CERTIFICATE, "nats", name)
    assert found is not None
    return next((each for each in found["status"]["conditions"] if each["type"] == "Issuing"), None)


def patches(server: ApiServer) -> list[str]:
    """The Certificates that were patched, in order."""
    return [line.split("/")[-2] for line in server.requests if line.startswith("PATCH") and "/certificates/" in line]


@pytest.fixture
async def restricted(server: ApiServer, tmp_path: Any) -> AsyncIterator[KubernetesClient]:
    """The authority's own, with the rights that the manifests give it for this and no others."""
    server.namespace("nats")
    server.accounts.rules |= rules_of(build("examples/cert-manager"))
    file = server.kubeconfig(tmp_path / "kubeconfig", server.accounts.issue("tidemark", "tidemark-authority"))
    async with KubernetesClient(Kubeconfig(file), pauses=(0.01,)) as client:
        yield client


def config(*namespaces: str) -> CertManagerConfig:
    return CertManagerConfig(namespaces or ("nats",), "tidemark")


async def test_a_mark_changes_the_status_of_the_version_that_was_read(
    server: ApiServer, restricted: KubernetesClient
) -> None:
    certificate(server, "nats-server", BEFORE - 600)
    cert_manager = CertManagerClient(restricted, config())
    (read,) = await cert_manager.issuances("nats")
    assert (read.full_name, read.issuer, read.not_before) == ("nats/nats-server", "tidemark", BEFORE - 600)
    certificate(server, "nats-server", BEFORE - 500)  # by cert-manager
    with pytest.raises(ObjectConflict, match="patch certificatestatus nats/nats-server, found 409"):
        await cert_manager.mark(read, BEFORE)
    (read,) = await cert_manager.issuances("nats")
    await cert_manager.mark(read, BEFORE)
    found = server.store.find(CERTIFICATE, "nats", "nats-server")
    assert found is not None
    assert found["spec"]["issuerRef"] == {"name": "tidemark"}
    assert found["status"]["notBefore"] == instant(BEFORE - 500)
    assert [each["type"] for each in found["status"]["conditions"]] == ["Ready", "Issuing"]


async def test_an_issuer_of_another_group_is_not_ours(server: ApiServer, client: KubernetesClient) -> None:
    server.namespace("nats")
    certificate(server, "a", BEFORE)
    body = server.store.find(CERTIFICATE, "nats", "a")
    assert body is not None
    body["spec"]["issuerRef"] = {"name": "tidemark", "kind": "Issuer", "group": "awspca.cert-manager.io"}
    server.store.put(CERTIFICATE, body)
    (read,) = (await client.list(Selection(Certificate, "nats"), issuance)).items
    assert read.issuer == ""


class World:
    """The sequencer over a journal in which a CA was replaced at ``START + 10``, or where all is ``well``."""

    def __init__(self, client: KubernetesClient, *namespaces: str, well: bool = False) -> None:
        builder, good = running() if well else revoked()[::2]
        journal = MemoryJournal(Effects())
        for entry in builder.entries:
            journal.put(entry.record)
        self.events: list[Event] = []
        self.active: str | None = good.ca_id
        here = ControllerContext(JournalStore(journal), TRUST, PLAYGROUND, lambda: START + 15, self.events.append)
        self.reissues = CertManagerController(here, CertManagerClient(client, config(*namespaces)), lambda: self.active)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reissues.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def marked(self) -> list[str]:
        return [event.certificate for event in self.events if isinstance(event, CertificateMarked)]

    def errors(self) -> dict[str, str]:
        """By target."""
        return {e.target: e.error for e in self.events if isinstance(e, StepFailed) and e.step is Step.REISSUE}


def look(found: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def ask() -> Any:
        return found()

    return ask


async def test_every_due_certificate_is_marked_though_one_fails(
    server: ApiServer, restricted: KubernetesClient
) -> None:
    async def refuse(request: web.Request, handle: Answering) -> web.StreamResponse:
        if "/certificates/a/status" in request.path:
            return web.json_response({"kind": "Status", "message": "denied by a webhook", "code": 400}, status=400)
        if "/certificates/b/status" in request.path and patches(server).count("b") == 1:
            certificate(server, "b", START - 90)  # cert-manager wrote meanwhile
        return await handle(request)

    for name in ("a", "b", "c"):
        certificate(server, name, START - 100)
    certificate(server, "fresh", START + 11)
    certificate(server, "theirs", START - 100, issuer="letsencrypt")
    server.interfere = refuse
    world = World(restricted)
    async with world.running():
        await eventually(look(lambda: len(world.marked()) == 2), "two to be marked")
        server.interfere = None
        await eventually(look(lambda: len(world.marked()) == 3), "the third")
    assert sorted(world.marked()) == ["nats/a", "nats/b", "nats/c"]
    assert "denied by a webhook" in world.errors()["nats/a"]
    assert {name for name in ("a", "b", "c", "fresh", "theirs") if condition(server, name)} == {"a", "b", "c"}


async def test_nothing_is_marked_before_the_issuer_was_switched(
    server: ApiServer, restricted: KubernetesClient
) -> None:
    certificate(server, "a", START - 100)
    world = World(restricted)
    good, world.active = world.active, None

    def lists() -> int:
        return sum("GET" in line and "/certificates" in line for line in server.requests)

    async with world.running():
        await eventually(look(lambda: lists() >= 2), "two looks")
        assert patches(server) == []
        world.active = good
        await eventually(look(world.marked), "the mark")


async def test_missing_certificates_kind_and_issuer_are_named(server: ApiServer, restricted: KubernetesClient) -> None:
    async def missing(request: web.Request, handle: Answering) -> web.StreamResponse:
        if "/namespaces/nats/certificates" in request.path:
            return web.Response(status=404, text="404 page not found\n")  # no such group here
        return await handle(request)

    server.namespace("orders")
    server.interfere = missing
    world = World(restricted, "nats", "orders")
    async with world.running():
        await eventually(look(lambda: len(world.errors()) == 2), "both errors")
    assert "list certificates in nats, found 404" in world.errors()["nats"]
    assert world.errors()["nats"].endswith("; is cert-manager installed?")
    assert "list certificates in orders, found 403" in world.errors()["orders"]
    assert "docs/kubernetes.md" in world.errors()["orders"]


async def test_missing_permission_is_reported_before_any_withdrawal(
    server: ApiServer, restricted: KubernetesClient
) -> None:
    server.namespace("orders")
    certificate(server, "a", START - 100)
    world = World(restricted, "nats", "orders", well=True)
    async with world.running():
        await eventually(look(world.errors), "the error")
        assert world.errors().keys() == {"orders"}
        looks = "/apis/cert-manager.io/v1/namespaces/{}/certificates"
        reported = len(world.events)
        await eventually(look(lambda: len(world.events) > reported), "another try")
    asked = [line.partition("?")[0].removeprefix("GET ") for line in server.requests]
    assert asked.count(looks.format("nats")) == 1
    assert patches(server) == []


async def test_a_revocation_marks_them_once(server: ApiServer, deployment: AuthorityDeployment) -> None:
    """The whole authority, started again after it has marked; cert-manager issues in between."""
    file = deployment.config_file
    file.write_text(
        file.read_text().replace(
            "\n[[leaves]]", '\n[kubernetes.cert_manager]\nnamespaces = ["nats"]\nissuer = "tidemark"\n\n[[leaves]]'
        )
    )
    rules = rules_of(build("examples/cert-manager"))
    for user, more in rules.items():
        server.accounts.rules[user] = [*server.accounts.rules[user], *more]
    certificate(server, "a", time.time() - 3600)
    async with deployment.running(), deployment.session(deployment.token("operator")) as session:
        assert condition(server, "a") is None
        bad = (await ask(session, "/api/v1/status"))["signing"]["sha256"]
        order = {"ca": bad, "now": True, "reason": "a test"}
        async with session.post("/api/v1/revoke", json=order) as response:
            assert response.status == 200, await response.text()
        await eventually(look(lambda: condition(server, "a")), "the mark")
        events = (await ask(session, "/api/v1/status"))["events"]
        assert [each["certificate"] for each in events if each["event"] == "certificate_marked"] == ["nats/a"]
    certificate(server, "a", time.time() + 1)  # issued anew
    certificate(server, "b", time.time() - 3600)
    async with deployment.running():
        await eventually(look(lambda: condition(server, "b")), "the other's mark")
    assert patches(server) == ["a", "b"]
