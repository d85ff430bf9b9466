"""Leader election by a Lease: one leads, takeover within the time, by what was seen and never by another's clock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from authority.election.interface import Election, ElectionError, Replica
from authority.election.kubernetes import URL_ANNOTATION, LeaseAt, LeaseElection, LeaseTimes
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.credentials import Kubeconfig
from tests.harness.kubernetes.apiserver import Answering, ApiServer, internal_error
from tests.harness.kubernetes.kinds import LEASE
from tests.harness.waiting import eventually

QUICK = LeaseTimes(lease=3, renew=2, retry=0.05)
STILL = LeaseTimes(lease=9, renew=6, retry=1.5)


@dataclass
class Clock:
    """Seconds that go on when a test says so."""

    at: float = 1000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Candidates:
    """Replicas with a connection each."""

    server: ApiServer
    directory: Path
    stack: AsyncExitStack
    clock: Clock = field(default_factory=Clock)
    failures: list[str] = field(default_factory=list)

    async def make(
        self, name: str, times: LeaseTimes = STILL, clock: Callable[[], float] | None = None
    ) -> LeaseElection:
        file = self.server.kubeconfig(self.directory / name, self.server.accounts.administrator())
        client = await self.stack.enter_async_context(KubernetesClient(Kubeconfig(file), pauses=(0.01,)))
        at = LeaseAt(client, "tidemark", "tidemark-authority")
        me = Replica(name, f"https://{name}:8443")
        return LeaseElection(me, at, self._failed, times, clock or self.clock)

    def _failed(self, error: ElectionError) -> None:
        self.failures.append(str(error))

    @asynccontextmanager
    async def running(self, election: Election) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(election.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def candidates(server: ApiServer, tmp_path: Path) -> AsyncIterator[Candidates]:
    async with AsyncExitStack() as stack:
        yield Candidates(server, tmp_path, stack)


def lease(server: ApiServer) -> dict[str, object]:
    found = server.store.find(LEASE, "tidemark", "tidemark-authority")
    assert found is not None
    spec: dict[str, object] = found["spec"]
    return spec


async def test_first_replica_leads_and_publishes_its_url(server: ApiServer, candidates: Candidates) -> None:
    one, two = await candidates.make("one"), await candidates.make("two")
    assert one.leader is None
    await one.turn()
    await two.turn()
    assert (one.leads, two.leads) == (True, False)
    assert two.leader == Replica("one", "https://one:8443")
    found = server.store.find(LEASE, "tidemark", "tidemark-authority")
    assert found is not None
    assert found["metadata"]["annotations"] == {URL_ANNOTATION: "https://one:8443"}
    assert (found["spec"]["holderIdentity"], found["spec"]["leaseDurationSeconds"]) == ("one", 9)


async def test_one_of_several_replicas_wins(candidates: Candidates) -> None:
    several = [await candidates.make(f"r{number}") for number in range(4)]
    for _ in range(3):
        await asyncio.gather(*(one.turn() for one in several))
        assert sum(one.leads for one in several) == 1


async def test_dead_leader_is_replaced_after_an_unchanged_lease(server: ApiServer, candidates: Candidates) -> None:
    one, two = await candidates.make("one"), await candidates.make("two")
    await one.turn()
    await two.turn()
    candidates.clock.at += 8.9
    await two.turn()
    assert not two.leads
    candidates.clock.at += 0.2
    await two.turn()
    assert two.leads
    assert lease(server)["leaseTransitions"] == 1


async def test_renewals_count_and_clocks_of_others_do_not(server: ApiServer, candidates: Candidates) -> None:
    server.clock = lambda: 0.0  # and with it the times in the Lease
    one, two = await candidates.make("one"), await candidates.make("two")
    await one.turn()
    for _ in range(5):
        await two.turn()
        candidates.clock.at += 5
        await one.turn()
    assert (one.leads, two.leads) == (True, False)


async def test_paused_leader_does_not_lead_when_it_wakes(candidates: Candidates) -> None:
    one, two = await candidates.make("one"), await candidates.make("two")
    await one.turn()
    await two.turn()
    losing = asyncio.create_task(one.lost())
    candidates.clock.at += 30
    assert not one.leads  # before it has looked at anything
    await two.turn()
    assert two.leads
    await one.turn()
    async with asyncio.timeout(30):
        await losing
    assert one.leader == Replica("two", "https://two:8443")


async def test_leader_stops_before_others_may_take_over(server: ApiServer, candidates: Candidates) -> None:
    one = await candidates.make("one")
    await one.turn()
    await server.stop()
    candidates.clock.at += 6
    assert not one.leads
    assert STILL.renew < STILL.lease


async def test_takeover_with_a_lost_answer_is_completed(server: ApiServer, candidates: Candidates) -> None:
    lost = 0

    async def lose(request: web.Request, handle: Answering) -> web.StreamResponse:
        nonlocal lost
        response = await handle(request)
        if request.method in ("POST", "PUT") and response.status < 300 and lost < 2:
            lost += 1
            return internal_error()
        return response

    server.interfere = lose
    one = await candidates.make("one")
    for _ in range(4):
        await one.turn()
    assert one.leads
    assert lost == 2


async def test_term_that_ended_during_the_answer_is_a_new_term(server: ApiServer, candidates: Candidates) -> None:
    one = await candidates.make("one")
    await one.turn()
    losing = asyncio.create_task(one.lost())
    await asyncio.sleep(0)  # it waits

    async def delay(request: web.Request, handle: Answering) -> web.StreamResponse:
        if request.method == "PUT":
            candidates.clock.at += 5
        return await handle(request)

    server.interfere = delay
    candidates.clock.at += 2
    winning = asyncio.create_task(one.won())
    await one.turn()  # began in time, came too late
    async with asyncio.timeout(30):
        await losing
    server.interfere = None
    await one.turn()
    async with asyncio.timeout(30):
        await winning


async def test_deleted_lease_is_written_again(server: ApiServer, candidates: Candidates) -> None:
    one = await candidates.make("one")
    await one.turn()
    server.store.delete(LEASE, "tidemark", "tidemark-authority")
    await one.turn()
    assert one.leads
    assert lease(server)["holderIdentity"] == "one"


async def test_ended_leader_releases_the_lease_to_another(server: ApiServer, candidates: Candidates) -> None:
    loop = asyncio.get_running_loop()
    one, two = await candidates.make("one", QUICK, loop.time), await candidates.make("two", QUICK, loop.time)
    async with candidates.running(one) as running:
        async with asyncio.timeout(30):
            await one.won()
        async with candidates.running(two):
            await eventually(lambda: two.leader == one.me, "the other to follow")
            running.cancel()
            async with asyncio.timeout(30):
                await two.won()
    assert lease(server)["holderIdentity"] == ""  # both have let go


async def test_leader_that_cannot_renew_reports_and_loses(server: ApiServer, candidates: Candidates) -> None:
    loop = asyncio.get_running_loop()
    one = await candidates.make("one", QUICK, loop.time)
    async with candidates.running(one), asyncio.timeout(60):
        await one.won()
        await server.stop()
        await one.lost()
        await eventually(lambda: candidates.failures, "a word about it")
        await server.start()
        await one.won()
    assert "election tidemark/tidemark-authority: expected to hold it by a Lease" in candidates.failures[0]
