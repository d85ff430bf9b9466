"""Replicas of one authority as processes that are killed, paused and resumed."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, Program
from tests.harness.measurements import ReportTable
from tests.harness.soak import report, size
from tests.harness.waiting import eventually

LEASE = 2

PAUSE = size("SOAK_PAUSE", 2 * LEASE)
"""Seconds for which a leader is paused; ``make soak`` pauses it for longer, with the lease that is the default."""

TAKEOVER_SECONDS = 15.0


class ReplicaProcess(Program):
    """A replica as a process of its own."""

    def __init__(self, deployment: AuthorityDeployment, name: str) -> None:
        self.stop_once = deployment.root / f"stop-{name}"
        super().__init__(deployment, {"TIDEMARK_LOG": "json", "STOP_ONCE": str(self.stop_once)}, name)
        self.module = "tests.harness.authority.pausing"
        self._launched = 0

    async def launch(self) -> None:
        self._launched += 1
        await super().launch()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    @property
    def url(self) -> str:
        url = str(self.events("listening")[-1]["url"])
        return url.replace("127.0.0.1", "localhost") if "TIDEMARK_ADVERTISE" in self.deployment.environment else url

    @asynccontextmanager
    async def session(self, holder: str = "operator") -> AsyncIterator[aiohttp.ClientSession]:
        headers = {"Authorization": f"Bearer {self.deployment.token(holder)}"}
        connector = aiohttp.TCPConnector(ssl=await self.deployment.context())
        async with aiohttp.ClientSession(self.url, connector=connector, headers=headers) as session:
            yield session

    async def ask(self, path: str) -> dict[str, Any]:
        async with self.session() as session, session.get(path) as response:
            response.raise_for_status()
            answer: dict[str, Any] = await response.json()
            return answer

    async def rotate(self, reason: str) -> int:
        async with self.session() as session:
            status, answer = await post(session, reason)
        assert status == 200, answer
        return int(answer["sequence"])

    async def leads(self) -> bool:
        return bool(self.events("leading")) and len(self.events("leading")) > len(self.events("following"))

    async def follows(self, leader: "ReplicaProcess") -> bool:
        """Whether this replica answers reads with the state of that leader."""
        if len(self.events("listening")) < self._launched:
            return False
        replica = (await self.ask("/api/v1/status"))["replica"]
        return bool(replica["leads"]) and replica["name"] == leader.events("listening")[-1]["replica"]


def replicated(root: Path, lease: float = LEASE, agents: Sequence[str] = AGENTS) -> AuthorityDeployment:
    """A configured authority for several replicas; its epochs are long, so that only the test causes rotations."""
    more = f"[election]\nlease_seconds = {lease:g}\n"
    deployment = AuthorityDeployment.create(root, preset="production", more=more, agents=agents)
    deployment.init()
    return deployment


@asynccontextmanager
async def two(deployment: AuthorityDeployment) -> AsyncIterator[tuple[ReplicaProcess, ReplicaProcess]]:
    """A leader that has published, and a replica that follows it."""
    async with ReplicaProcess(deployment, "first.log") as first, ReplicaProcess(deployment, "second.log") as second:
        await first.start()
        await second.launch()
        await eventually(lambda: second.follows(first), "the second replica to follow the first")
        yield first, second


def report_takeover(what: str, lease: float, seconds: float) -> None:
    caption = "From the signal to the other's first act as leader; afterwards nothing had been written twice or back."
    table = ReportTable(caption, ["leader", "lease, s", "takeover, s"], [[what, lease, seconds]])
    report("soak-replicas", "Authority: a leader that is killed, or paused and resumed", table)


async def post(session: aiohttp.ClientSession, reason: str) -> tuple[int, dict[str, Any]]:
    async with session.post("/api/v1/rotate", json={"reason": reason}) as response:
        return response.status, await response.json()
