"""The overlay's configuration, run by the real authority on an API server that holds it to the built rights.

The API server is the fake one, which judges by the roles of the manifests; the admission policies judge every write.
"""

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from authority.app.provision import initialise
from authority.config.load import load
from tests.harness.authority.deployment import AuthorityDeployment, Program
from tests.harness.kubernetes.accounts import rules_of
from tests.harness.kubernetes.apiserver import Answering, ApiServer
from tests.harness.kubernetes.kinds import CONFIG_MAP, KINDS, MUTATING_WEBHOOKS, NAMESPACE, POD, SECRET
from tests.harness.manifests.admission_policies import Request, denials
from tests.harness.manifests.build import build, one, pods
from tests.harness.waiting import eventually

OVERLAY, NATS = "overlays/embedded", "examples/nats"
USER = "system:serviceaccount:tidemark:tidemark-authority"
_WRITE = re.compile(r"/api(?:s/[^/]+)?/v1(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?")


class Admission:
    """Shows every write that the API server took to the policies; ``denied`` is what they say against it."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.policies = [item for item in build(OVERLAY) if item["kind"] == "ValidatingAdmissionPolicy"]
        self.seen: set[str] = set()
        self.denied: list[str] = []

    async def look(self, request: web.Request, answer: Answering) -> web.StreamResponse:
        found = _WRITE.fullmatch(request.path)
        if request.method not in ("POST", "PATCH", "PUT", "DELETE") or not found:
            return await answer(request)
        kind = next(kind for kind in KINDS.values() if kind.plural == found["plural"])
        name = found["name"] or (await request.json())["metadata"].get("name", "")
        namespace = found["namespace"] or ""
        old = self.server.store.find(kind, namespace, name)
        response = await answer(request)
        new = self.server.store.find(kind, namespace, name)
        if response.status < 300 and (old or new):  # a review is not kept
            self.judge(kind.plural, namespace, old, new)
        return response

    def judge(self, plural: str, namespace: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        operation = "CREATE" if old is None else "UPDATE" if new is not None else "DELETE"
        within = self.server.store.find(NAMESPACE, "", namespace) or {"metadata": {"name": ""}}
        self.seen.add(f"{operation} {plural}")
        for policy in self.policies:
            self.denied += denials(policy, Request(USER, operation, plural, within, new, old))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server with the namespaces, rights and webhook of the manifests, and one pod of the NATS example."""
    async with ApiServer(tmp_path / "apiserver").running() as server:
        objects = [*build(OVERLAY), *build(NATS)]
        server.accounts.rules |= rules_of(objects)
        for item in objects:
            if item["kind"] == "Namespace":
                server.store.put(NAMESPACE, item)
        server.store.put(MUTATING_WEBHOOKS, one(objects, "MutatingWebhookConfiguration", "tidemark-injector"))
        ((_, template),) = pods(build(NATS))
        server.store.put(POD, {**template, "metadata": {**template["metadata"], "name": "nats-0", "namespace": "nats"}})
        yield server


@pytest.fixture
def deployment(server: ApiServer, tmp_path: Path) -> AuthorityDeployment:
    """The overlay's configuration, but for where it listens and how it finds the API server."""
    (text,) = one(build(OVERLAY), "ConfigMap", "tidemark-authority-config")["data"].values()
    for old, new in (
        ("/var/lib/tidemark", "state"),
        ("0.0.0.0:8443", "127.0.0.1:0"),
        ("0.0.0.0:9443", "127.0.0.1:0"),
        ('"localhost"]\nopen_reads', '"127.0.0.1"]\nopen_reads'),
        ("[kubernetes]\n", '[kubernetes]\nkubeconfig = "kubeconfig"\n'),
    ):
        assert old in text, old
        text = text.replace(old, new)
    root = tmp_path / "deployment"
    root.mkdir()
    (root / "authority.toml").write_text(text)
    server.kubeconfig(root / "kubeconfig", server.accounts.issue("tidemark", "tidemark-authority"))
    initialise(load(root / "authority.toml", {}), int(time.time()))
    return AuthorityDeployment(root)


async def test_authority_of_the_overlay_works_with_the_rights_of_the_manifests(
    server: ApiServer, deployment: AuthorityDeployment
) -> None:
    admission = Admission(server)
    server.interfere = admission.look

    async def is_all_there() -> bool:
        secrets = [server.store.find(SECRET, "nats", name) for name in ("nats-ca-tls", "nats-server-tls")]
        webhook = server.store.find(MUTATING_WEBHOOKS, "", "tidemark-injector")
        nudged = server.store.find(POD, "nats", "nats-0")
        return bool(
            all(secrets)
            and server.store.find(CONFIG_MAP, "nats", "tidemark-trust")
            and webhook
            and webhook["webhooks"][0]["clientConfig"].get("caBundle")
            and nudged
            and "tidemark.io/nudge" in nudged["metadata"].get("annotations", {})
        )

    async with Program(deployment) as program:
        await program.start()
        await eventually(is_all_there, "bundle, leaf, trust file, caBundle and nudge")
        server.store.delete(SECRET, "nats", "nats-ca-tls")  # by somebody else
        await eventually(is_all_there, "the bundle back")
    assert admission.denied == []
    assert {
        "CREATE secrets",
        "CREATE configmaps",
        "UPDATE pods",
        "UPDATE mutatingwebhookconfigurations",
    } <= admission.seen
    assert [line for line in program.log.read_text().splitlines() if re.search("found 403|403 Forbidden", line)] == []
