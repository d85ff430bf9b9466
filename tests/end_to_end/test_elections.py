"""Replicas whose leader the test decides: two leaders at once, a former leader, no leader, and a leader to distrust."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from authority.app.run import run
from authority.election.interface import Election, Replica
from tests.harness.authority.deployment import AuthorityDeployment
from tests.harness.authority.mount_watch import watching
from tests.harness.authority.replicas import post, replicated
from tests.harness.waiting import eventually


@dataclass
class DecidedElection:
    """An election whose leader the test decides."""

    me: Replica
    leader: Replica | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def leads(self) -> bool:
        return self.leader == self.me

    def decide(self, leader: Replica | None) -> None:
        self.leader = leader
        self.changed.set()
        self.changed = asyncio.Event()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def won(self) -> None:
        while not self.leads:
            await self.changed.wait()

    async def lost(self) -> None:
        while self.leads:
            await self.changed.wait()


@asynccontextmanager
async def replicas(deployment: AuthorityDeployment, count: int) -> AsyncIterator[list[DecidedElection]]:
    """Replicas in this process; the test decides their elections, which begin without a leader."""
    elections: list[DecidedElection] = []

    def elect(me: Replica) -> Election:
        elections.append(DecidedElection(me))
        return elections[-1]

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(run(deployment.config, stop, time.time, elect))

        async def all_listen() -> bool:
            return len(elections) == count

        try:
            await eventually(all_listen, "every replica to listen")
            yield elections
        finally:
            stop.set()


@asynccontextmanager
async def sessions(
    deployment: AuthorityDeployment, elections: list[DecidedElection]
) -> AsyncIterator[list[aiohttp.ClientSession]]:
    headers = {"Authorization": f"Bearer {deployment.token('operator')}"}
    async with AsyncExitStack() as stack:
        opened = []
        for election in elections:
            connector = aiohttp.TCPConnector(ssl=await deployment.context())
            session = aiohttp.ClientSession(election.me.url, connector=connector, headers=headers)
            opened.append(await stack.enter_async_context(session))
        yield opened


async def test_two_leaders_overwrite_no_higher_sequence(tmp_path: Path) -> None:
    deployment = replicated(tmp_path / "deployment")
    async with watching(deployment) as watch, replicas(deployment, 2) as elections:
        for election in elections:
            election.decide(election.me)  # both replicas lead
        await deployment.until_published()
        made: list[int] = []
        async with sessions(deployment, elections) as opened:
            for round_number in range(12):
                answers = await asyncio.gather(*(post(session, f"round {round_number}") for session in opened))
                for status, answer in answers:
                    assert status == 200 or (status, "try again" in answer["error"]) == (409, True)
                    made += [answer["sequence"]] if status == 200 else []
        assert len(made) == len(set(made)) >= 12

        async def is_published() -> bool:
            return max(watch.digests) >= max(made)

        await eventually(is_published, "the newest in the mounts")
        await deployment.until_published()


async def test_former_leader_gets_no_requests_and_may_lead_again(tmp_path: Path) -> None:
    deployment = replicated(tmp_path / "deployment")
    async with watching(deployment), replicas(deployment, 2) as elections, sessions(deployment, elections) as opened:
        one, two = elections
        for leader in (one, two, one):
            for election in elections:
                election.decide(leader.me)
            for session in opened:  # also to the follower

                async def rotated(session: aiohttp.ClientSession = session) -> bool:
                    return (await post(session, "any leader"))[0] == 200

                await eventually(rotated, "a rotation by the leader")
        await deployment.until_published()


async def test_replicas_without_a_leader_refuse_writes_and_answer_reads(tmp_path: Path) -> None:
    deployment = replicated(tmp_path / "deployment")
    async with replicas(deployment, 2) as elections, sessions(deployment, elections) as opened:
        one, two = elections
        expected = "/api/v1/rotate: expected a replica that leads, found none at present; try again"
        assert await post(opened[0], "no leader") == (503, {"error": expected})
        one.decide(two.me)
        two.decide(one.me)  # each forwards to the other: a request is forwarded once only
        assert await post(opened[0], "after you") == (503, {"error": expected})
        one.decide(Replica("gone", "https://127.0.0.1:1"))
        status, answer = await post(opened[0], "unreachable leader")
        assert status == 503
        assert answer["error"].startswith(
            "/api/v1/rotate: expected an answer of the leading replica https://127.0.0.1:1, found Cannot connect"
        )
        for path in ("/api/v1/status", "/api/v1/fleet", "/api/v1/bundles", "/metrics"):
            async with opened[0].get(path) as response:
                assert response.status == 200
        async with opened[0].get("/api/v1/status") as response:
            replica = (await response.json())["replica"]
        assert (replica["leads"], replica["leader"]["name"]) == (False, "gone")


async def test_follower_sends_no_token_to_a_leader_with_another_control_ca(tmp_path: Path) -> None:
    ours, stranger = replicated(tmp_path / "ours"), replicated(tmp_path / "stranger")
    async with replicas(ours, 1) as here, replicas(stranger, 1) as there, sessions(ours, here) as (session,):
        there[0].decide(there[0].me)
        here[0].decide(there[0].me)
        status, answer = await post(session, "another control CA")
        assert status == 503
        assert "CERTIFICATE_VERIFY_FAILED" in answer["error"]
