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


def live(builder: Callable[[AuthorityHarness], Awaitable[None]]) -> AuthorityHarness:
    """Run a builder from a first start."""

    async def main() -> AuthorityHarness:
        harness = AuthorityHarness()
        harness.boot()
        await builder(harness)
        await harness.stop()
        return harness

    return virtual_time.run(main())


def openings(harness: AuthorityHarness) -> list[tuple[int, Opening]]:
    """When each CA was activated, in seconds after the start, and how its gate was opened."""
    return [(event.at - START, event.opening) for event in harness.of(Activated)]


def all_prove(harness: AuthorityHarness, *but: str) -> None:
    """Every pod proves what is shown at each look, but for these."""

    def report(now: int) -> None:
        for pod in harness.pods.expected:
            if pod.name not in but and harness.target.bundle is not None:
                harness.pods.prove(pod.name, harness.pods_mark(), now)

    harness.on_view = report


def set_ready(harness: AuthorityHarness, name: str, *, ready: bool) -> None:
    """As the API server says it."""
    harness.pods.expected = [
        replace(pod, ready=ready, since=harness.now()) if pod.name == name and pod.ready is not ready else pod
        for pod in harness.pods.expected
    ]


async def look(harness: AuthorityHarness) -> None:
    harness.rotation.wake()
    await harness.settle()


def test_a_first_start_of_a_fleet_that_is_not_there_yet() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        harness.pods.expected.clear()
        await harness.until(NEXT + 5)
        hold = harness.rotation.hold
        assert hold is not None
        assert (hold.closed, hold.waiting) == (ClosedReason.EMPTY, ())
        harness.pods.add("nats-0")
        await look(harness)
        assert harness.rotation.hold is None

    harness = live(builder)
    assert openings(harness) == [(0, Opening.BOOTSTRAP), (25, Opening.GATE)]


def test_an_empty_fleet_stays_closed_until_the_last_resort() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        harness.pods.expected.clear()
        await harness.until(START + 61)

    harness = live(builder)
    assert openings(harness) == [(0, Opening.BOOTSTRAP), (60, Opening.LAST_RESORT)]
    assert {event.closed for event in harness.of(GateHeld)} == {ClosedReason.EMPTY}


def test_an_unreadable_fleet_stays_closed_and_opens_once_it_can_be_read() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        await harness.until(START + 5)
        harness.readable = False
        await harness.until(NEXT + 10)
        hold = harness.rotation.hold
        assert hold is not None
        assert hold.closed is ClosedReason.UNREADABLE
        harness.readable = True
        await look(harness)

    harness = live(builder)
    assert openings(harness) == [(0, Opening.BOOTSTRAP), (30, Opening.GATE)]


def test_an_unreadable_fleet_does_not_outlast_the_signing_ca() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        harness.readable = False
        await harness.until(START + 200)

    harness = live(builder)
    assert [opening for _, opening in openings(harness)] == [Opening.BOOTSTRAP] + [Opening.LAST_RESORT] * 3
    assert harness.journal_store.history.signing is not None
    assert not harness.journal_store.history.signing.is_expired(START + 200)


def test_pod_never_ready_is_quarantined_after_p() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        all_prove(harness, "nats-1")
        await harness.until(NEXT - 4)
        harness.pods.expected.append(ExpectedAgent("nats-1", PodClass.REQUIRED, "", ready=False, since=NEXT - 4))
        await harness.until(NEXT + 2)
        assert harness.rotation.hold is not None
        assert harness.rotation.hold.waiting == ("nats-1",)
        await harness.until(NEXT + 10)

    harness = live(builder)
    at, opening = openings(harness)[1]
    assert NEXT + 4 < START + at <= NEXT + 9  # P after it came, at the next look
    assert opening is Opening.GATE


def test_a_pod_that_crashes_again_and_again_holds_until_the_last_resort_which_names_it() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        all_prove(harness, "nats-1")
        harness.pods.add("nats-1")
        for second in range(5, 115, 5):  # ready for a moment each time, and never out of sight for as long as P
            set_ready(harness, "nats-1", ready=second % 2 == 0)
            await harness.until(START + second)

    harness = live(builder)
    activated = harness.of(Activated)
    assert [event.opening for event in activated] == [Opening.BOOTSTRAP, Opening.LAST_RESORT]
    assert activated[-1].unproven == ("nats-1",)
    assert all(event.waiting == ("nats-1",) for event in harness.of(GateHeld))


def test_a_crashed_pod_that_is_back_is_waited_for_again() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        all_prove(harness, "nats-1")
        harness.pods.add("nats-1", ready=False, since=START - 100)
        await harness.until(NEXT + 1)
        assert harness.rotation.hold is None
        set_ready(harness, "nats-1", ready=True)
        await harness.until(NEXT + 21)
        assert harness.rotation.hold is not None
        assert harness.rotation.hold.waiting == ("nats-1",)
        all_prove(harness)
        await look(harness)

    harness = live(builder)
    assert openings(harness) == [(0, Opening.BOOTSTRAP), (20, Opening.GATE), (41, Opening.GATE)]


def test_a_pod_that_joins_between_the_proofs_and_the_start_is_waited_for() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        all_prove(harness, "nats-1")
        await harness.until(NEXT - 2)
        harness.pods.add("nats-1")
        await harness.until(NEXT + 3)
        assert len(harness.of(Activated)) == 1
        all_prove(harness)
        await look(harness)

    harness = live(builder)
    assert openings(harness) == [(0, Opening.BOOTSTRAP), (23, Opening.GATE)]


def test_pods_that_are_added_during_a_hold_are_waited_for_too() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        all_prove(harness, "nats-0")
        await harness.until(NEXT + 3)
        harness.pods.add("nats-1")
        harness.pods.add("orders", PodClass.APPLICATION)
        all_prove(harness, "nats-0", "nats-1", "orders")
        await look(harness)
        hold = harness.rotation.hold
        assert hold is not None
        assert hold.waiting == ("nats-0", "nats-1", "orders")
        all_prove(harness, "nats-1", "orders")
        await look(harness)
        assert len(harness.of(Activated)) == 1
        all_prove(harness, "orders")
        await harness.until(NEXT + 19)
        assert len(harness.of(Activated)) == 1
        await harness.until(NEXT + 21)  # the application's deadline

    harness = live(builder)
    last = harness.of(Activated)[-1]
    assert last.opening is Opening.DEADLINE
    assert last.unproven == ("orders",)


def test_outage_longer_than_v_with_half_broken_fleet_recovers_unattended() -> None:
    async def builder(harness: AuthorityHarness) -> None:
        harness.pods.add("nats-1")
        await harness.until(START + 25)
        await harness.stop()
        await harness.sleep(300)
        all_prove(harness, "nats-1")
        harness.boot()
        await harness.settle()
        assert harness.of(Activated)[-1].opening is Opening.BOOTSTRAP
        assert harness.of(Activated)[-1].at == harness.now()
        all_prove(harness)
        await harness.sleep(45)

    harness = live(builder)
    assert [opening for _, opening in openings(harness)][-2:] == [Opening.GATE, Opening.GATE]
