"""Two replicas of one authority as processes: a follower forwards, and takes over from a killed or paused leader."""

import asyncio
import signal
import time
from itertools import count
from pathlib import Path

from authority.election.interface import LEASE_SECONDS
from authority.journal.directory import DirectoryJournal
from authority.journal.record_types import LeafRecord, StatementRecord
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, receipt
from tests.harness.authority.mount_watch import watching
from tests.harness.authority.replicas import (
    LEASE,
    PAUSE,
    TAKEOVER_SECONDS,
    post,
    replicated,
    report_takeover,
    two,
)
from tests.harness.waiting import eventually
from tidemark.verify import Mark


def without_addresses(deployment: AuthorityDeployment) -> AuthorityDeployment:
    """As in pods: replicas advertise their own address, and no certificate contains it."""
    text = deployment.config_file.read_text()
    deployment.config_file.write_text(text.replace("[api]\n", '[api]\nnames = ["localhost"]\n'))
    return AuthorityDeployment(deployment.root, {"TIDEMARK_ADVERTISE": "127.0.0.1"})


async def test_follower_forwards_writes_and_takes_over_from_a_killed_leader(tmp_path: Path) -> None:
    deployment = without_addresses(replicated(tmp_path / "deployment", lease=LEASE_SECONDS))
    async with watching(deployment), two(deployment) as (first, second):
        sequence = await second.rotate("asked of the one that follows")
        newest = await first.ask("/api/v1/status")
        assert newest["newest"]["sequence"] == sequence
        sent = receipt("nats-0", Mark(sequence, newest["newest"]["digest"]), None, 1)
        async with second.session("agent") as session:
            async with session.post("/api/v1/receipts", data=sent.to_json()) as response:
                assert await response.json() == {"newest_sequence": sequence}
            async with session.post("/api/v1/rotate", json={"reason": "mischief"}) as response:
                assert response.status == 403  # the leader judges the token
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
    """The loop of the resumed leader continues with a waiting request; it follows, and no mount goes back."""
    lease = LEASE if PAUSE <= LEASE_SECONDS else LEASE_SECONDS
    deployment = replicated(tmp_path / "deployment", lease)
    async with watching(deployment), two(deployment) as (first, second):
        before = await first.rotate("before the pause")
        first.send(signal.SIGSTOP)
        paused = time.monotonic()
        async with first.session() as session:
            request = asyncio.create_task(post(session, "asked of the one that is paused"))
            await eventually(second.leads, "the other to take over")
            report_takeover(f"paused for {PAUSE} s and resumed, elected by files", lease, time.monotonic() - paused)
            assert await second.rotate("during the pause") > before
            await asyncio.sleep(PAUSE - (time.monotonic() - paused))  # a pause of this length is measured
            first.send(signal.SIGCONT)
            status, answer = await request
        # The request was forwarded, or refused because the new leader was not known yet.
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
    """The new leader finds a CA without a record and keeps its key: the record may still come, as it does here."""
    deployment = replicated(tmp_path / "deployment")
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
        status, answer = await request  # the replica was stopping by then, or was in time
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
    """The paused leader has read the journal and is about to write; only the comparison with the mount is left."""
    deployment = replicated(tmp_path / "deployment", agents=["nats-0"])
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
