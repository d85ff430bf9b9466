"""The election by files: in every order of turns and pauses, at most one replica leads at a time."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authority.election.file import FileElection
from authority.election.interface import ElectionError, Replica
from tests.harness.waiting import PATIENCE, eventually

LEASE = 10.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def unexpected(error: ElectionError) -> None:
    raise AssertionError(str(error))


def election(name: str, directory: Path, clock: Callable[[], float], lease: float = LEASE) -> FileElection:
    return FileElection(Replica(name, f"https://{name}:8443"), directory, unexpected, lease, clock)


@dataclass
class ReplicaGroup:
    """Some replicas on one directory, each with a turn when the test says so."""

    directory: Path
    clock: Clock = field(default_factory=Clock)

    def replica(self, name: str) -> FileElection:
        return election(name, self.directory, self.clock)


@pytest.fixture
def group(tmp_path: Path) -> ReplicaGroup:
    return ReplicaGroup(tmp_path)


async def test_first_replica_leads_and_the_other_knows_the_leader(group: ReplicaGroup) -> None:
    one, two = group.replica("one"), group.replica("two")
    assert one.leader is None
    assert not one.leads
    one.turn()
    two.turn()
    assert (one.leads, two.leads) == (True, False)
    assert one.leader == two.leader == one.me


async def test_win_between_check_and_wait_is_not_missed(group: ReplicaGroup) -> None:
    class Overtaken(FileElection):
        """Its thread wins just after ``won`` has checked."""

        overtaken = False

        @property
        def leads(self) -> bool:
            found = super().leads
            if not self.overtaken:
                self.overtaken = True
                self.turn()
            return found

    one = Overtaken(Replica("one", "https://one:8443"), group.directory, unexpected, LEASE, group.clock)
    async with asyncio.timeout(PATIENCE):
        await one.won()
    assert one.overtaken
    assert one.leads


async def test_renewed_term_never_ends(group: ReplicaGroup) -> None:
    one, two = group.replica("one"), group.replica("two")
    for _ in range(20):
        one.turn()
        two.turn()
        assert one.leads
        assert two.leader == one.me
        group.clock.now += LEASE / 2


async def test_paused_leader_has_lost_before_another_takes_over(group: ReplicaGroup) -> None:
    one, two = group.replica("one"), group.replica("two")
    one.turn()
    two.turn()
    group.clock.now += 0.9 * LEASE
    assert not one.leads  # before its next turn
    two.turn()
    assert not two.leads
    group.clock.now += 0.2 * LEASE
    two.turn()
    assert two.leads
    one.turn()
    one.turn()
    assert not one.leads
    assert one.leader == two.me


async def test_paused_leader_that_was_not_replaced_begins_another_term(group: ReplicaGroup) -> None:
    one = group.replica("one")
    one.turn()
    over = asyncio.create_task(one.lost())
    await asyncio.sleep(0)
    group.clock.now += 3 * LEASE
    one.turn()  # what it did last is not known to be undisturbed: it stands down first
    assert not one.leads
    one.turn()
    assert one.leads
    async with asyncio.timeout(5):
        await over
        await one.won()


async def test_paused_follower_takes_nothing_over(group: ReplicaGroup) -> None:
    one, two = group.replica("one"), group.replica("two")
    one.turn()
    two.turn()
    for _ in range(8):
        group.clock.now += LEASE / 2
        one.turn()
    two.turn()
    assert one.leads
    assert not two.leads


async def test_busy_event_loop_leads_on_and_stuck_one_loses(group: ReplicaGroup) -> None:
    one, two = group.replica("one"), group.replica("two")
    one.pulse()
    for _ in range(5):
        one.turn()
        two.turn()
        assert one.leads
        group.clock.now += LEASE / 2
    for _ in range(6):
        one.turn()
        two.turn()
        group.clock.now += LEASE / 2
    assert not one.leads
    assert two.leads
    one.turn()
    assert one.leader == two.me


async def test_resigned_leader_is_replaced_at_once(tmp_path: Path) -> None:
    clock = asyncio.get_running_loop().time
    one, two = election("one", tmp_path, clock), election("two", tmp_path, clock)
    first, second = asyncio.create_task(one.run()), asyncio.create_task(two.run())
    async with asyncio.timeout(30):
        await asyncio.wait(
            [asyncio.create_task(one.won()), asyncio.create_task(two.won())], return_when="FIRST_COMPLETED"
        )
        leader, other, task = (one, two, first) if one.leads else (two, one, second)
        lost = asyncio.create_task(leader.lost())
        task.cancel()
        await lost
        await other.won()
    assert other.leader == other.me
    for ended in (first, second):
        ended.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


async def test_unusable_directory_raises_election_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ElectionError, match=r"file/election: expected a directory where replicas can agree"):
        await election("one", tmp_path / "file" / "election", Clock()).run()


async def test_election_resumes_when_a_lost_directory_returns(tmp_path: Path) -> None:
    complaints: list[str] = []
    directory = tmp_path / "election"
    one = FileElection(
        Replica("one", "https://one"),
        directory,
        lambda error: complaints.append(str(error)),
        1.0,
    )
    running = asyncio.create_task(one.run())
    async with asyncio.timeout(30):
        await one.won()
        directory.rename(tmp_path / "away")
        await one.lost()
        directory.mkdir()
        await one.won()
    running.cancel()
    await asyncio.wait([running])
    assert "expected to read and write the terms of office, found No such file" in complaints[0]


async def test_unreadable_term_counts_as_free(group: ReplicaGroup) -> None:
    (group.directory / "000000000007.term").write_bytes(b"\xff not json")
    one = group.replica("one")
    one.turn()  # its lock is free
    assert one.leads
    assert [path.name for path in group.directory.iterdir()] == ["000000000008.term"]


Schedule = list[tuple[int, float]]
"""Who looks next, and how long after the last look: a long time is a pause of everybody else."""


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1.5 * LEASE)), max_size=40))
@settings(max_examples=60)
def test_two_replicas_never_lead_at_the_same_time(schedule: Schedule) -> None:
    async def main(group: ReplicaGroup) -> None:
        replicas = [group.replica(name) for name in ("one", "two", "three")]
        terms: list[str] = []
        for who, after in schedule:
            group.clock.now += after
            replicas[who].turn()
            leading = [replica.me.name for replica in replicas if replica.leads]
            assert len(leading) <= 1
            terms += leading
        for _ in range(5):  # the only replica that still takes turns leads in the end
            group.clock.now += 0.6 * LEASE
            replicas[0].turn()
        assert [replica.me.name for replica in replicas if replica.leads] == ["one"]

    with tempfile.TemporaryDirectory() as home:
        asyncio.run(main(ReplicaGroup(Path(home))))


async def test_one_of_several_simultaneous_takeovers_wins(tmp_path: Path) -> None:
    clock = Clock()
    replicas = [election(f"replica-{number}", tmp_path, clock) for number in range(8)]
    await asyncio.gather(*(asyncio.to_thread(replica.turn) for replica in replicas))
    assert sum(replica.leads for replica in replicas) == 1

    async def all_know() -> bool:
        await asyncio.gather(*(asyncio.to_thread(replica.turn) for replica in replicas))
        return len({replica.leader for replica in replicas}) == 1

    await eventually(all_know, "every replica to know the leader")
