"""A rotation on one machine: from the statement to the proof of 3 NATS servers and 20 applications.

A whole deployment as the playground starts it: authority, 23 agents, 3 nats-servers in a cluster and, in one process,
20 applications on ``tidemark.nats``, each connected and told by its own agent. Rotations are forced one after another,
with the scheduled ones of the preset ``playground`` (D = 20 s) between them. Instants are those that the authority
noted.
"""

import asyncio
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from authority.config.load import IssuerKind
from playground.deployment import Deployment, authority_session, remove_secrets
from playground.layout import SERVERS, ApplicationPod, Layout, ServerPod, free_ports
from playground.processes import Child
from tests.harness.measurements import Cell, ReportTable, Sample

TITLE = "Rotation: statement issued to proven by 3 NATS servers and 20 applications"

APPLICATIONS = 20
ROTATIONS = int(os.environ.get("BENCH_ROTATIONS", "25"))
BUDGET_SECONDS = 1.0

_PAUSE = 4.0  # seconds, in which what a rotation brings about (activation, new leaves) comes to its end
_PATIENCE = 60.0


class _Deployment(Deployment):
    """Applications that answer their agents, in one process, in place of the playground's load."""

    async def _start_applications(self) -> None:
        applications = [f"{pod.reload_port}={pod.out}" for pod in self.layout.applications]
        command = [sys.executable, "-m", "bench.answering", self.layout.server_urls, *applications]
        child = Child("applications", command, {}, self.layout.logs / "applications.log")
        self.applications["applications"] = child
        await child.start()
        await self._until_pods(self.agents, "/readyz", self.layout.pods)

    async def stop_load(self) -> None:
        for child in self.applications.values():
            await child.stop(5)


def _layout(root: Path) -> Layout:
    ports = iter(free_ports(2 + 4 * len(SERVERS) + 2 * APPLICATIONS))
    authority_port, openbao_port = next(ports), next(ports)
    servers = tuple(
        ServerPod(name, root / name, next(ports), next(ports), next(ports), next(ports)) for name in SERVERS
    )
    names = [f"application-{number:02d}" for number in range(APPLICATIONS)]
    applications = tuple(ApplicationPod(name, root / name, next(ports), next(ports)) for name in names)
    return Layout(root, servers, applications, authority_port, openbao_port)


async def measure() -> list[ReportTable]:
    """Rotations one after another."""
    with tempfile.TemporaryDirectory() as home:
        layout = _layout(Path(home))
        deployment = _Deployment(layout, lambda _: None)
        try:
            await deployment.start("playground", IssuerKind.EMBEDDED)
            async with authority_session(layout) as session:
                found = [await _rotation(layout, session) for _ in range(ROTATIONS)]
        finally:
            await deployment.stop()
            remove_secrets(layout)
    rows: list[list[Cell]] = []
    for name, seconds in zip(("nats-servers", "applications", "all"), zip(*found, strict=True), strict=True):
        sample = Sample(tuple(1000 * value for value in seconds))
        rows.append([name, sample, sample.highest])
    caption = f"From the journal to the last of their proofs. Budget: {BUDGET_SECONDS:g} s for all."
    return [ReportTable(caption, ["who", "issued to proven, ms", "slowest, ms"], rows)]


async def _rotation(layout: Layout, session: aiohttp.ClientSession) -> tuple[float, float, float]:
    """Seconds until every server, every application and all had proven the statement of one forced rotation."""
    proven: dict[str, float] = {}
    while not proven:  # or a scheduled one came in between: agents go for the newest alone
        await asyncio.sleep(_PAUSE)
        sequence = await _until(partial(_forced, layout, session), "a rotation")
        proven = await _until(partial(_proven, layout, session, sequence), f"everybody to prove statement {sequence}")
    servers = max(proven[pod.name] for pod in layout.servers)
    applications = max(proven[pod.name] for pod in layout.applications)
    return servers, applications, max(servers, applications)


async def _forced(layout: Layout, session: aiohttp.ClientSession) -> int | None:
    """The statement's number; None where the authority wants to be asked again."""
    token = (layout.authority_state / "tokens" / "operator").read_text().strip()
    url, headers = f"{layout.authority_url}/api/v1/rotate", {"Authorization": f"Bearer {token}"}
    async with session.post(url, json={"reason": "bench"}, headers=headers) as response:
        return int((await response.json())["sequence"]) if response.status == 200 else None


async def _proven(layout: Layout, session: aiohttp.ClientSession, sequence: int) -> dict[str, float] | None:
    """By agent, how long after its statement was issued it had proven it; None before all have, empty if never."""
    async with session.get(f"{layout.authority_url}/api/v1/bundles") as response:
        bundles: list[dict[str, Any]] = (await response.json())["bundles"]
    bundle = next(one for one in bundles if one["sequence"] == sequence)
    if len(bundle["proven"]) < len(layout.pods):
        return None if bundles[0]["sequence"] == sequence else {}
    return {name: at - bundle["published_at"] for name, at in bundle["proven"].items()}


async def _until(look: Any, what: str) -> Any:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if (found := await look()) is not None:
            return found
        await asyncio.sleep(0.1)
    raise RuntimeError(f"expected {what} within {_PATIENCE:g} s, found none")
