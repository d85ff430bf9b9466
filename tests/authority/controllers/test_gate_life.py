"""The gate in a life of rotations: fleets that are empty, unreadable, growing or broken, and that each comes right."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from authority.fleet.view import ExpectedAgent
from authority.journal.record_types import Opening
from authority.rotation.events import Activated, GateHeld
from authority.rotation.gate import ClosedReason
from tests.harness import virtual_time
from tests.harness.authority.harness import AuthorityHarness
from tests.harness.authority.journal_builder import START
from tidemark.receipt import PodClass

NEXT = START + 20


def live(story: Callable[[AuthorityHarness], Awaitable[None]]) -> AuthorityHarness:
    """Run a story from a first start."""

    async def main() -> AuthorityHarness:
        machine = AuthorityHarness()
        machine.boot()
        await story(machine)
        await machine.stop()
        return machine

    return virtual_time.run(main())


def openings(machine: AuthorityHarness) -> list[tuple[int, Opening]]:
    """When each CA was activated, in seconds after the start, and how its gate was opened."""
    return [(event.at - START, event.opening) for event in machine.of(Activated)]


def all_prove(machine: AuthorityHarness, *but: str) -> None:
    """Every pod proves what is shown at each look, but for these."""

    def report(now: int) -> None:
        for pod in machine.pods.expected:
            if pod.name not in but and machine.target.bundle is not None:
                machine.pods.prove(pod.name, machine.pods_mark(), now)

    machine.on_view = report


def set_ready(machine: AuthorityHarness, name: str, *, ready: bool) -> None:
    """As the API server says it."""
    machine.pods.expected = [
        replace(pod, ready=ready, since=machine.now()) if pod.name == name and pod.ready is not ready else pod
        for pod in machine.pods.expected
    ]


async def look(machine: AuthorityHarness) -> None:
    machine.rotation.wake()
    await machine.settle()


def test_a_first_start_of_a_fleet_that_is_not_there_yet() -> None:
    async def story(machine: AuthorityHarness) -> None:
        machine.pods.expected.clear()
        await machine.until(NEXT + 5)
        hold = machine.rotation.hold
        assert hold is not None
        assert (hold.closed, hold.waiting) == (ClosedReason.EMPTY, ())
        machine.pods.add("nats-0")
        await look(machine)
        assert machine.rotation.hold is None

    machine = live(story)
    assert openings(machine) == [(0, Opening.BOOTSTRAP), (25, Opening.GATE)]


def test_an_empty_fleet_stays_closed_until_the_last_resort() -> None:
    async def story(machine: AuthorityHarness) -> None:
        machine.pods.expected.clear()
        await machine.until(START + 61)

    machine = live(story)
    assert openings(machine) == [(0, Opening.BOOTSTRAP), (60, Opening.LAST_RESORT)]
    assert {event.closed for event in machine.of(GateHeld)} == {ClosedReason.EMPTY}


def test_an_unreadable_fleet_stays_closed_and_opens_once_it_can_be_read() -> None:
    async def story(machine: AuthorityHarness) -> None:
        await machine.until(START + 5)
        machine.readable = False
        await machine.until(NEXT + 10)
        hold = machine.rotation.hold
        assert hold is not None
        assert hold.closed is ClosedReason.UNREADABLE
        machine.readable = True
        await look(machine)

    machine = live(story)
    assert openings(machine) == [(0, Opening.BOOTSTRAP), (30, Opening.GATE)]


def test_an_unreadable_fleet_does_not_outlast_the_signing_ca() -> None:
    async def story(machine: AuthorityHarness) -> None:
        machine.readable = False
        await machine.until(START + 200)

    machine = live(story)
    assert [opening for _, opening in openings(machine)] == [Opening.BOOTSTRAP] + [Opening.LAST_RESORT] * 3
    assert machine.journal_store.history.signing is not None
    assert not machine.journal_store.history.signing.is_expired(START + 200)


def test_pod_never_ready_is_quarantined_after_p() -> None:
    async def story(machine: AuthorityHarness) -> None:
        all_prove(machine, "nats-1")
        await machine.until(NEXT - 4)
        machine.pods.expected.append(ExpectedAgent("nats-1", PodClass.REQUIRED, "", ready=False, since=NEXT - 4))
        await machine.until(NEXT + 2)
        assert machine.rotation.hold is not None
        assert machine.rotation.hold.waiting == ("nats-1",)
        await machine.until(NEXT + 10)

    machine = live(story)
    at, opening = openings(machine)[1]
    assert NEXT + 4 < START + at <= NEXT + 9  # P after it came, at the next look
    assert opening is Opening.GATE


def test_a_pod_that_crashes_again_and_again_holds_until_the_last_resort_which_names_it() -> None:
    async def story(machine: AuthorityHarness) -> None:
        all_prove(machine, "nats-1")
        machine.pods.add("nats-1")
        for second in range(5, 115, 5):  # ready for a moment each time, and never out of sight for as long as P
            set_ready(machine, "nats-1", ready=second % 2 == 0)
            await machine.until(START + second)

    machine = live(story)
    activated = machine.of(Activated)
    assert [event.opening for event in activated] == [Opening.BOOTSTRAP, Opening.LAST_RESORT]
    assert activated[-1].unproven == ("nats-1",)
    assert all(event.waiting == ("nats-1",) for event in machine.of(GateHeld))


def test_a_crashed_pod_that_is_back_is_waited_for_again() -> None:
    async def story(machine: AuthorityHarness) -> None:
        all_prove(machine, "nats-1")
        machine.pods.add("nats-1", ready=False, since=START - 100)
        await machine.until(NEXT + 1)
        assert machine.rotation.hold is None
        set_ready(machine, "nats-1", ready=True)
        await machine.until(NEXT + 21)
        assert machine.rotation.hold is not None
        assert machine.rotation.hold.waiting == ("nats-1",)
        all_prove(machine)
        await look(machine)

    machine = live(story)
    assert openings(machine) == [(0, Opening.BOOTSTRAP), (20, Opening.GATE), (41, Opening.GATE)]


def test_a_pod_that_joins_between_the_proofs_and_the_start_is_waited_for() -> None:
    async def story(machine: AuthorityHarness) -> None:
        all_prove(machine, "nats-1")
        await machine.until(NEXT - 2)
        machine.pods.add("nats-1")
        await machine.until(NEXT + 3)
        assert len(machine.of(Activated)) == 1
        all_prove(machine)
        await look(machine)

    machine = live(story)
    assert openings(machine) == [(0, Opening.BOOTSTRAP), (23, Opening.GATE)]


def test_pods_that_are_added_during_a_hold_are_waited_for_too() -> None:
    async def story(machine: AuthorityHarness) -> None:
        all_prove(machine, "nats-0")
        await machine.until(NEXT + 3)
        machine.pods.add("nats-1")
        machine.pods.add("orders", PodClass.APPLICATION)
        all_prove(machine, "nats-0", "nats-1", "orders")
        await look(machine)
        hold = machine.rotation.hold
        assert hold is not None
        assert hold.waiting == ("nats-0", "nats-1", "orders")
        all_prove(machine, "nats-1", "orders")
        await look(machine)
        assert len(machine.of(Activated)) == 1
        all_prove(machine, "orders")
        await machine.until(NEXT + 19)
        assert len(machine.of(Activated)) == 1
        await machine.until(NEXT + 21)  # the application's deadline

    machine = live(story)
    last = machine.of(Activated)[-1]
    assert last.opening is Opening.DEADLINE
    assert last.unproven == ("orders",)


def test_outage_longer_than_v_with_half_broken_fleet_recovers_unattended() -> None:
    async def story(machine: AuthorityHarness) -> None:
        machine.pods.add("nats-1")
        await machine.until(START + 25)
        await machine.stop()
        await machine.sleep(300)
        all_prove(machine, "nats-1")
        machine.boot()
        await machine.settle()
        assert machine.of(Activated)[-1].opening is Opening.BOOTSTRAP
        assert machine.of(Activated)[-1].at == machine.now()
        all_prove(machine)
        await machine.sleep(45)

    machine = live(story)
    assert [opening for _, opening in openings(machine)][-2:] == [Opening.GATE, Opening.GATE]
