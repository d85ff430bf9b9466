"""The real authority and a real agent in a cluster whose API server is the fake one: a whole proven rotation."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from authority.kubernetes.nudge import NUDGE_ANNOTATION
from tests.harness.authority.deployment import AuthorityDeployment, Program, ask
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.kinds import LEASE, POD, SECRET
from tests.harness.kubernetes.node import AgentsPod, FakeNode
from tests.harness.kubernetes.selectors import selects
from tests.harness.waiting import eventually
from tidemark.certificates import fingerprint, parse_leaf


def leaf_ca(server: ApiServer) -> str:
    """The fingerprint of the CA that signed the leaf in the Secret."""
    found = server.store.find(SECRET, "nats", "nats-server-tls")
    assert found is not None
    files = {name: base64.b64decode(data) for name, data in found["data"].items()}
    return fingerprint(parse_leaf(files["tls.crt"], files["tls.key"]).chain[0])


@dataclass(frozen=True)
class ProvenRotation:
    """A forced rotation whose new CA signs and whose leaf is proven."""

    before: str
    """SHA-256 of the CA that signed before."""
    ca: str
    """SHA-256 of the new CA."""
    newest: dict[str, Any]
    """The newest bundle, as the API lists it."""
    failures: list[Any]
    """Failures that the status shows."""


async def rotate(session: aiohttp.ClientSession) -> ProvenRotation:
    """Force a rotation and wait until the one agent has proven a leaf of the new CA."""

    async def proven() -> dict[str, Any] | None:
        agents = (await ask(session, "/api/v1/fleet"))["agents"]
        return next((one for one in agents if (one["name"], one["state"]) == ("nats/nats-0", "proven")), None)

    async def signing() -> str:
        return str((await ask(session, "/api/v1/status"))["signing"]["sha256"])

    await eventually(proven, "the first proof")
    before = await signing()
    async with session.post("/api/v1/rotate", json={"reason": "a test"}) as response:
        assert response.status == 200, await response.text()
        ca = str((await response.json())["ca"])

    async def has_activated() -> bool:
        return await signing() == ca

    async def has_proven_its_leaf() -> bool:
        agent = await proven()
        return agent is not None and bool(agent["receipt"]["leaf"]["issuer_sha256"] == ca)

    await eventually(has_activated, "the new CA to sign")
    await eventually(has_proven_its_leaf, "a proven leaf of the new CA")
    newest = (await ask(session, "/api/v1/bundles"))["bundles"][0]
    return ProvenRotation(before, ca, newest, (await ask(session, "/api/v1/status"))["failures"])


def check_objects(server: ApiServer, newest: dict[str, Any]) -> None:
    """The history has the newest bundle, the Lease has the leader's URL, and the pod was nudged."""
    history = selects("tidemark.io/history=bundle", "")
    names = {one["metadata"]["name"] for one in server.store.select(SECRET, "tidemark", history)}
    assert f"nats-ca-bundle-epoch-{newest['epoch']}-{newest['sequence']}" in names
    lease = server.store.find(LEASE, "tidemark", "tidemark-authority")
    assert lease is not None
    assert lease["metadata"]["annotations"]["tidemark.io/url"].startswith("https://127.0.0.1:")
    pod = server.store.find(POD, "nats", "nats-0")
    assert pod is not None
    assert NUDGE_ANNOTATION in pod["metadata"]["annotations"]


async def test_rotation_on_kubernetes_is_proven_and_keeps_its_history(
    server: ApiServer, deployment: AuthorityDeployment, tmp_path: Path
) -> None:
    node = FakeNode(server, tmp_path / "node")
    async with Program(deployment) as program, node.running():
        await program.start()
        pod = AgentsPod(node, "nats", "nats-0")
        async with pod.running(deployment.url), deployment.session(deployment.token("operator")) as session:
            rotation = await rotate(session)
        assert rotation.before != rotation.ca
        assert (rotation.newest["ca"], rotation.newest["opening"]) == (rotation.ca, "gate")
        assert rotation.failures == []
        assert leaf_ca(server) == rotation.ca
        # The number of earlier reloads depends on the time in the epoch.
        reloads = {one["sequence"] for one in pod.reloads}
        assert len(reloads) >= 2
        assert rotation.newest["sequence"] in reloads
        check_objects(server, rotation.newest)

        server.store.delete(SECRET, "nats", "nats-ca-tls")
        await eventually(lambda: server.store.find(SECRET, "nats", "nats-ca-tls"), "the deleted Secret")
    refused = [line for line in program.log.read_text().splitlines() if "found 403" in line]
    assert refused == [], json.dumps(refused)
