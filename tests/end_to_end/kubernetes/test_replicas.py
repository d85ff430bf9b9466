"""Two replicas of one authority in a cluster, elected by the Lease: who leads is paused and resumed, or killed."""

import asyncio
import base64
import signal
import time

from aiohttp import web

from authority.election.interface import LEASE_SECONDS
from tests.harness.authority.deployment import AuthorityDeployment
from tests.harness.authority.replicas import PAUSE, TAKEOVER_SECONDS, ReplicaProcess, report_takeover
from tests.harness.kubernetes.apiserver import Answering, ApiServer
from tests.harness.kubernetes.kinds import LEASE, SECRET
from tests.harness.waiting import eventually
from tidemark.bundle import NOTE_FILE, Statement
from tidemark.note import parse

IN_SUITE = 3
IS_LONG = PAUSE > LEASE_SECONDS


class Live:
    """The live Secret after every write of any: sequence and text of what it showed."""

    def __init__(self, server: ApiServer) -> None:
        self._store = server.store
        self.shown: list[tuple[int, str]] = []
        server.interfere = self._look

    async def _look(self, request: web.Request, handle: Answering) -> web.StreamResponse:
        response = await handle(request)
        found = self._store.find(SECRET, "nats", "nats-ca-tls") if request.method != "GET" else None
        if found is not None:
            text = parse(base64.b64decode(found["data"][NOTE_FILE])).text
            if not self.shown or self.shown[-1][1] != text:
                self.shown.append((Statement.parse(text).sequence, text))
        return response


def holder(server: ApiServer) -> str:
    found = server.store.find(LEASE, "tidemark", "tidemark-authority")
    return str(found["spec"]["holderIdentity"]) if found else ""


async def takeover(what: str, lease: int, by: ReplicaProcess) -> None:
    """Wait until this one leads; in the suite a slow machine may take its time."""
    began = time.monotonic()
    await eventually(by.leads, "the other to take over")
    seconds = time.monotonic() - began
    report_takeover(f"{what}, elected by a Lease", lease, seconds)
    assert not IS_LONG or seconds < TAKEOVER_SECONDS


async def test_replica_takes_over_from_a_paused_and_from_a_killed_leader(
    server: ApiServer, deployment: AuthorityDeployment
) -> None:
    lease = LEASE_SECONDS if IS_LONG else IN_SUITE
    with deployment.config_file.open("a") as config:
        config.write(f"\n[election]\nlease_seconds = {lease}\n")
    live = Live(server)
    async with ReplicaProcess(deployment, "one.log") as one, ReplicaProcess(deployment, "two.log") as two:
        await one.start()
        await two.launch()
        await eventually(lambda: two.follows(one), "the second replica to follow the first")
        sequences = [await two.rotate("passed on to the one that leads")]
        one.send(signal.SIGSTOP)
        paused = time.monotonic()
        await takeover(f"paused for {PAUSE} s and resumed", lease, two)
        sequences.append(await two.rotate("during the pause"))
        await asyncio.sleep(max(0.0, PAUSE - (time.monotonic() - paused)))  # a pause of this length
        one.send(signal.SIGCONT)
        await eventually(lambda: one.follows(two), "the first to follow")
        sequences.append(await one.rotate("asked of the one that was paused"))
        two.send(signal.SIGKILL)
        await takeover("killed", lease, one)
        sequences.append(await one.rotate("by the one that took over"))
        await deployment.until_published()
        assert sequences == sorted(set(sequences))
        assert [sequence for sequence, _ in live.shown] == sorted({sequence for sequence, _ in live.shown})
        assert live.shown[-1][0] == sequences[-1]
        assert await one.signal(signal.SIGTERM) == 0
        assert holder(server) == ""
