"""Two replicas of one authority: who follows serves and forwards, who leads may be killed, paused, or not be alone."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import aiohttp

from authority.app.run import run
from authority.election.interface import LEASE_SECONDS, Election, Replica
from authority.journal.directory import DirectoryJournal
from authority.journal.record_types import LeafRecord, StatementRecord
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, receipt
from tests.harness.authority.replicas import LEASE, PAUSE, TAKEOVER_SECONDS, post, report_takeover, two
from tests.harness.waiting import eventually
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle
from tidemark.trust import Trust
from tidemark.verify import Known, Mark, reopen, verify


class Watch:
    """An agent's eyes on every mount: each text that a mount shows is judged by what the same mount showed before."""

    def __init__(self, deployment: AuthorityDeployment, trust: Trust) -> None:
        self._mounts = [deployment.root / name / "bundle" for name in AGENTS]
        self._trust = trust
        self._known = dict.fromkeys(self._mounts, Known())
        self._shown: dict[Path, bytes] = {}
        self.digests: dict[int, set[str]] = {}

    async def run(self) -> None:
        while True:
            for mount in self._mounts:
                self._look(mount)
            await asyncio.sleep(0.005)

    def _look(self, mount: Path) -> None:
        try:
            generation = (mount / "..data").resolve(strict=True)
            bundle = Bundle((generation / CA_FILE).read_bytes(), (generation / NOTE_FILE).read_bytes())
        except FileNotFoundError:  # not there yet, or replaced between two reads
            return
        if bundle.note == self._shown.get(mount):
            return
        self._shown[mount] = bundle.note
        verified = verify(bundle, self._trust, self._known[mount], int(time.time()))
        self._known[mount] = Known(Mark(verified.sequence, verified.digest), verified)
        self.digests.setdefault(verified.sequence, set()).add(verified.digest)


@asynccontextmanager
async def watching(deployment: AuthorityDeployment) -> AsyncIterator[Watch]:
    """Fails where a mount goes back, or shows what an agent would refuse."""
    watch = Watch(deployment, await deployment.trust())
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        ended = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError), ended[0]
    await _check(deployment, watch)


async def _check(deployment: AuthorityDeployment, watch: Watch) -> None:
    """The journal counts one by one, and nobody saw another text for a number than it holds."""
    entries = await DirectoryJournal(deployment.state / "journal").read()
    bundles = [entry.record.bundle for entry in entries if isinstance(entry.record, StatementRecord)]
    trust = await deployment.trust()
    digests = {one.sequence: {one.digest} for one in (reopen(bundle, trust) for bundle in bundles)}
    assert list(digests) == list(range(1, len(bundles) + 1))
    assert watch.digests.items() <= digests.items()
    assert max(watch.digests) == max(digests)


def make(root: Path, lease: float = LEASE, agents: Sequence[str] = AGENTS) -> AuthorityDeployment:
    """Epochs are long: what is counted is what the test asks for."""
    more = f"[election]\nlease_seconds = {lease:g}\n"
    deployment = AuthorityDeployment.create(root, preset="production", more=more, agents=agents)
    deployment.init()
    return deployment


def without_addresses(deployment: AuthorityDeployment) -> AuthorityDeployment:
    """As in pods: a replica tells the other its own address, and no certificate has it."""
    text = deployment.config_file.read_text()
    deployment.config_file.write_text(text.replace("[api]\n", '[api]\nnames = ["localhost"]\n'))
    return AuthorityDeployment(deployment.root, {"TIDEMARK_ADVERTISE": "127.0.0.1"})


async def test_follower_forwards_writes_and_takes_over_from_a_killed_leader(tmp_path: Path) -> None:
    deployment = without_addresses(make(tmp_path / "house", lease=LEASE_SECONDS))
    async with watching(deployment), two(deployment) as (first, second):
        sequence = await second.rotate("asked of the one that follows")
        newest = await first.ask("/api/v1/status")
        assert newest["newest"]["sequence"] == sequence
        sent = receipt("nats-0", Mark(sequence, newest["newest"]["digest"]), None, 1)
        async with second.session("agent") as session:
            async with session.post("/api/v1/receipts", data=sent.to_json()) as response:
                assert await response.json() == {"newest_sequence": sequence}
            async with session.post("/api/v1/rotate", json={"reason": "mischief"}) as response:
                assert response.status == 403  # whose token it was is judged where it is carried out
        async with second.session() as session:
            wanted = {"name": "grace", "dns": ["grace"], "reason": "a look by hand"}
            async with session.post("/api/v1/leaf", json=wanted) as response:
                assert response.status == 200
        for replica in (first, second):
            fleet = await replica.ask("/api/v1/fleet")
            assert [agent["state"] for agent in fleet["agents"]] == ["proven", "missing"]

        async def followed() -> bool:
            return bool((await second.ask("/api/v1/bundles"))["bundles"][0]["sequence"] == sequence)

        await eventually(followed, "the journal to be followed")
        first.send(signal.SIGKILL)
        killed = time.monotonic()
        await eventually(second.leads, "the other to take over")
        report_takeover("killed, elected by files", LEASE_SECONDS, time.monotonic() - killed)
        assert time.monotonic() - killed < TAKEOVER_SECONDS
        assert deployment.url == second.url
        assert await second.rotate("by the one that took over") == sequence + 1
        await first.launch()
        await eventually(lambda: first.follows(second), "the first to follow")
        await deployment.until_published()
    entries = await DirectoryJournal(deployment.state / "journal").read()
    who = [entry.record.who for entry in entries if isinstance(entry.record, StatementRecord) and entry.record.who]
    assert who == ["operator from 127.0.0.1, for 127.0.0.1", "operator from 127.0.0.1"]
    (leaf,) = [entry.record for entry in entries if isinstance(entry.record, LeafRecord)]
    assert (leaf.name, leaf.who) == ("grace", "operator from 127.0.0.1, for 127.0.0.1")


async def test_paused_leader_loses_the_lease_and_follows_when_resumed(tmp_path: Path) -> None:
    """Its loop goes on where it stood, with a request at its door; it follows, and nothing goes back."""
    lease = LEASE if PAUSE <= LEASE_SECONDS else LEASE_SECONDS
    deployment = make(tmp_path / "house", lease)
    async with watching(deployment), two(deployment) as (first, second):
        before = await first.rotate("before the pause")
        first.send(signal.SIGSTOP)
        paused = time.monotonic()
        async with first.session() as session:
            request = asyncio.create_task(post(session, "asked of the one that is paused"))
            await eventually(second.leads, "the other to take over")
            report_takeover(f"paused for {PAUSE} s and resumed, elected by files", lease, time.monotonic() - paused)
            assert await second.rotate("during the pause") > before
            await asyncio.sleep(PAUSE - (time.monotonic() - paused))  # what is measured is a pause of this length
            first.send(signal.SIGCONT)
            status, answer = await request
        # It was passed on, or refused because it was not yet known to whom.
        assert (status == 200 and answer["sequence"] > before + 1) or (
            status == 503 and "found none" in answer["error"]
        )
        await eventually(lambda: first.follows(second), "the first to follow")
        assert first.events("following")
        assert await first.rotate("asked of the one that was paused") > before + 1
        await deployment.until_published()
        for replica in (first, second):
            assert await replica.signal(signal.SIGTERM) == 0


async def test_leader_paused_before_the_record_commits_no_ca_without_its_key(tmp_path: Path) -> None:
    """The other finds a CA that nothing asks for; it keeps the key, because this record may still come, as it does."""
    deployment = make(tmp_path / "house")
    async with watching(deployment), two(deployment) as (first, second), first.session() as session:
        before, numbers = (await first.ask("/api/v1/status"))["newest"], count(1)
        first.stop_once.write_text("os.link journal")
        request = asyncio.create_task(post(session, "asked of the one that stops"))
        await eventually(first.is_stopped, "the first to stop before its record")
        await eventually(second.leads, "the other to take over")

        async def prove(sequence: int, digest: str) -> None:
            """Receipts also wake the other's sequencer."""
            async with second.session("agent") as agent:
                for name in AGENTS:
                    sent = receipt(name, Mark(sequence, digest), None, next(numbers))
                    async with agent.post("/api/v1/receipts", data=sent.to_json()) as response:
                        assert response.status == 200

        for _ in range(3):
            await prove(before["sequence"], before["digest"])
            await deployment.until_published()
        first.send(signal.SIGCONT)
        status, answer = await request  # it was told to stop meanwhile, or was just in time
        assert status == 200 or (status, "it may be done or not" in answer["error"]) == (409, True)

        async def forced() -> str:
            await prove(before["sequence"], before["digest"])
            newest = (await second.ask("/api/v1/status"))["newest"]
            return str(newest["ca"]) if newest["sequence"] > before["sequence"] else ""

        ca = await eventually(forced, "the record to be followed")
        await deployment.until_published()
        bundle = await deployment.bundle("nats-0")
        assert bundle.sequence == before["sequence"] + 1
        await prove(bundle.sequence, bundle.digest)
        await eventually(lambda: deployment.has_leaf_of("nats-0", ca), "a leaf signed by the CA of that record")


async def test_leader_paused_before_publishing_overwrites_no_higher_sequence(tmp_path: Path) -> None:
    """It has read the journal for the last time, and opens the mount; all that is left is a look at what is there."""
    deployment = make(tmp_path / "house", agents=["nats-0"])
    async with watching(deployment), two(deployment) as (first, second), first.session() as session:
        first.stop_once.write_text("open bundle")
        request = asyncio.create_task(post(session, "published late"))
        await eventually(first.is_stopped, "the first to stop before it writes to a mount")
        await eventually(second.leads, "the other to take over")
        await second.rotate("by the one that took over")
        await deployment.until_published()
        first.send(signal.SIGCONT)
        status, answer = await request
        assert (status, answer["sequence"]) == (200, (await second.ask("/api/v1/status"))["newest"]["sequence"] - 1)
        await eventually(lambda: first.follows(second), "the first to follow")
        await deployment.until_published()


@dataclass
class Told:
    """An election that is told who leads."""

    me: Replica
    leader: Replica | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def leads(self) -> bool:
        return self.leader == self.me

    def tell(self, leader: Replica | None) -> None:
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
async def replicas(deployment: AuthorityDeployment, count: int) -> AsyncIterator[list[Told]]:
    """So many in this process, whose elections are told who leads: at first nobody."""
    elections: list[Told] = []

    def elect(me: Replica) -> Election:
        elections.append(Told(me))
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
    deployment: AuthorityDeployment, elections: list[Told]
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
    deployment = make(tmp_path / "house")
    async with watching(deployment) as watch, replicas(deployment, 2) as elections:
        for election in elections:
            election.tell(election.me)  # both of them lead
        await deployment.until_published()
        made: list[int] = []
        async with sessions(deployment, elections) as opened:
            for round_number in range(12):
                answers = await asyncio.gather(*(post(session, f"round {round_number}") for session in opened))
                for status, answer in answers:
                    assert status == 200 or (status, "try again" in answer["error"]) == (409, True)
                    made += [answer["sequence"]] if status == 200 else []
        assert len(made) == len(set(made)) >= 12

        async def shown() -> bool:
            return max(watch.digests) >= max(made)

        await eventually(shown, "the newest in the mounts")
        await deployment.until_published()


async def test_former_leader_gets_no_requests_and_may_lead_again(tmp_path: Path) -> None:
    deployment = make(tmp_path / "house")
    async with watching(deployment), replicas(deployment, 2) as elections, sessions(deployment, elections) as opened:
        one, two = elections
        for leader in (one, two, one):
            for election in elections:
                election.tell(leader.me)
            for session in opened:  # also of the one that follows

                async def rotated(session: aiohttp.ClientSession = session) -> bool:
                    return (await post(session, "who leads?"))[0] == 200

                await eventually(rotated, "a rotation by whoever leads")
        await deployment.until_published()


async def test_replicas_without_a_leader_refuse_writes_and_answer_reads(tmp_path: Path) -> None:
    deployment = make(tmp_path / "house")
    async with replicas(deployment, 2) as elections, sessions(deployment, elections) as opened:
        one, two = elections
        expected = "/api/v1/rotate: expected a replica that leads, found none at present; try again"
        assert await post(opened[0], "nobody leads") == (503, {"error": expected})
        one.tell(two.me)
        two.tell(one.me)  # each takes the other for the leader: it is passed on once, and not for ever
        assert await post(opened[0], "after you") == (503, {"error": expected})
        one.tell(Replica("gone", "https://127.0.0.1:1"))
        status, answer = await post(opened[0], "is anybody there?")
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
    ours, stranger = make(tmp_path / "ours"), make(tmp_path / "stranger")
    async with replicas(ours, 1) as here, replicas(stranger, 1) as there, sessions(ours, here) as (session,):
        there[0].tell(there[0].me)
        here[0].tell(there[0].me)
        status, answer = await post(session, "for whom?")
        assert status == 503
        assert "CERTIFICATE_VERIFY_FAILED" in answer["error"]
