"""Whether a leader keeps its Lease while everybody talks to it: a storm of receipts, and when it renewed meanwhile.

The API server and the agents are processes of the same machine, so that the figures are an upper bound.
"""

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from aiohttp import web

from authority.election.kubernetes import TIMES
from bench.agents import Wave
from tests.harness.authority.deployment import AuthorityDeployment, Program, ask
from tests.harness.kubernetes.apiserver import Answering, ApiServer
from tests.harness.kubernetes.deployment import CONFIG, furnish
from tests.harness.measurements import ReportTable, Sample

TITLE = "Authority: renewals of the Lease in a storm of receipts"

AGENTS = 10_000
SECONDS = 1.0


async def measure() -> list[ReportTable]:
    """One storm."""
    agents = [f"agent-{number:05d}" for number in range(AGENTS)]
    entries = "".join(f'[[agents]]\nname = "{name}"\nclass = "application"\n' for name in agents)
    renewed: list[float] = []

    async def note_renewal(request: web.Request, handle: Answering) -> web.StreamResponse:
        response = await handle(request)
        if request.method == "PUT" and "/leases/" in request.path:
            renewed.append(time.monotonic())
        return response

    with tempfile.TemporaryDirectory() as home:
        async with ApiServer(Path(home) / "apiserver").running() as server:
            server.namespace("tidemark")
            deployment = furnish(
                server, Path(home) / "deployment", CONFIG.replace('fleet = ["nats"]\nnudge = true\n', "") + entries
            )
            server.interfere = note_renewal
            async with Program(deployment, {"TIDEMARK_LOG": "json"}) as program:
                await program.start()
                began = time.monotonic()
                answered = await _storm(deployment, agents)
                seconds = time.monotonic() - began
            lost = program.log.read_text().count('"event": "following"')
    gaps = Sample(tuple(1000 * (later - earlier) for earlier, later in pairwise(renewed)))
    caption = (
        f"{AGENTS:,} agents send a receipt within {SECONDS:g} s, each on a new TLS connection. The Lease is renewed "
        f"every {1000 * TIMES.retry:g} ms, with a jitter of a fifth, and lost after {1000 * TIMES.renew:g} ms without."
    )
    columns = [
        "until all were answered, s",
        "sent to answered, ms",
        "between renewals, ms",
        "longest, ms",
        "leases lost",
    ]
    return [ReportTable(caption, columns, [[seconds, answered, gaps, gaps.highest, lost]])]


async def _storm(deployment: AuthorityDeployment, agents: list[str]) -> Sample:
    async with deployment.session(deployment.token("operator")) as session:
        newest = (await ask(session, "/api/v1/status"))["newest"]
    ca, token = (await deployment.trust()).control_ca or "", deployment.token("agent")
    wave = Wave(deployment.url, ca, token, agents, SECONDS, newest["sequence"], newest["digest"], 1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.agents", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(json.dumps(asdict(wave)).encode())
    if process.returncode:
        raise RuntimeError(f"bench.agents: expected status 0, found {process.returncode}")
    sent: dict[str, Any] = json.loads(out)
    return Sample(tuple(1000 * values[1] for values in sent.values()))
