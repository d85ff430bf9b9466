"""Withdrawals on one machine: from the operator's request to the last proof of the statement without the CA.

A whole deployment as the playground starts it, under its load. In each epoch of the preset ``playground`` (D = 20 s)
the signing CA is rolled back or revoked, in turns, by the staged procedure. Instants are the authority's own.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from playground.deployment import authority_session, deployed
from playground.layout import Layout
from playground.observe import Observer
from playground.record import KINDS, message_counts
from tests.harness.measurements import Cell, ReportTable, Sample

TITLE = "Withdrawal: request to distrusted by 3 NATS servers and 2 loaded applications"

WITHDRAWALS = int(os.environ.get("BENCH_WITHDRAWALS", "12"))
BUDGET_SECONDS = 2.0

_SPARE = 6.0  # seconds before the next preparation, in which a withdrawal comes to its end
_PATIENCE = 60.0


async def measure() -> list[ReportTable]:
    """Withdrawals one after another, then what became of the messages meanwhile."""
    seconds: dict[str, list[float]] = {"rollback": [], "revoke": []}
    with tempfile.TemporaryDirectory() as home:
        layout = Layout.allot(Path(home))
        async with (
            deployed(layout, "playground", lambda _: None) as deployment,
            Observer(deployment) as observer,
            authority_session(layout) as session,
        ):
            observer.begin()
            for number in range(WITHDRAWALS):
                what = list(seconds)[number % 2]
                seconds[what].append(await _withdrawal(layout, session, what))
            await deployment.stop_load()
            observer.note_counts()
            counts = {kind: message_counts(observer.record, kind) for kind in KINDS}
    rows: list[list[Cell]] = []
    for name, found in seconds.items():
        sample = Sample(tuple(1000 * value for value in found))
        rows.append([name, sample, sample.highest])
    caption = f"From the request to the last agent's proof. Budget for a rollback: {BUDGET_SECONDS:g} s."
    messages: list[list[Cell]] = [[kind, *each.values()] for kind, each in counts.items()]
    return [
        ReportTable(caption, ["what", "asked to distrusted by all, ms", "slowest, ms"], rows),
        ReportTable("The messages meanwhile.", ["kind", "published", "received", "lost", "twice"], messages),
    ]


async def _withdrawal(layout: Layout, session: aiohttp.ClientSession, what: str) -> float:
    """Withdraw the CA that signs; seconds until everybody had proven the statement without it."""
    ca = await _calm(layout, session)
    token = (layout.authority_state / "tokens" / "operator").read_text().strip()
    url, headers = f"{layout.authority_url}/api/v1/{what}", {"Authorization": f"Bearer {token}"}
    async with session.post(url, json={"reason": "bench", "ca": ca}, headers=headers) as response:
        response.raise_for_status()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        for each in (await _get(layout, session))["withdrawals"]:
            if each["ca"] == ca and each["distrusted"] == len(layout.pods):
                return float(each["slowest"])
        await asyncio.sleep(0.2)
    raise RuntimeError(f"expected the CA to be distrusted by all within {_PATIENCE:g} s, it is not")


async def _calm(layout: Layout, session: aiohttp.ClientSession) -> str:
    """Wait until everybody has proven the newest statement, and for an epoch's CA that signs; its fingerprint."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        status = await _get(layout, session)
        signing, newest = status["signing"], status["newest"]
        is_early = status["epoch"]["prepare_at"] - status["now"] > _SPARE
        is_proven = status["fleet"]["proven"] == len(layout.pods)
        if is_early and is_proven and newest["cause"] == "rotation" and newest["ca"] == signing["sha256"]:
            await asyncio.sleep(1)  # the leaves of the epoch's CA are proven as well
            return str(signing["sha256"])
        await asyncio.sleep(0.2)
    raise RuntimeError(f"expected everybody to have proven a rotation within {_PATIENCE:g} s, found {status['fleet']}")


async def _get(layout: Layout, session: aiohttp.ClientSession) -> dict[str, Any]:
    async with session.get(f"{layout.authority_url}/api/v1/status") as response:
        answer: dict[str, Any] = await response.json()
        return answer
