"""Days of a deployment, simulated: no leaf in use is ever expired or untrusted, and no good bundle is refused.

For the three presets, in steady operation and during a hold; and what an outage, a change of D, a late or a broken
agent come to. See ``model`` for what is real in it: all of the authority and of verification.
"""

import asyncio

import pytest

from authority.journal.record_types import Opening
from authority.rotation.events import Activated, GateHeld, LeafWritten, Prepared, StepFailed
from authority.rotation.leaf_renewal import LeafCause
from tests.harness.authority.fleet_simulation import FleetSimulation, deployment, epochs_of, patience, simulate
from tests.harness.authority.journal_builder import DOMAIN, SIGNER, START, running
from tidemark.epoch import PRESETS, RELOAD_SECONDS
from tidemark.receipt import PodClass
from tidemark.trust import Trust
from tidemark.verify import Known, Mark, reopen, verify

pytestmark = pytest.mark.long

EPOCHS = {"playground": 60, "testing": 36, "production": 12}
"""How long steady operation is watched: 20 minutes, 12 hours, three days."""


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_steady_operation(preset: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await model.harness.sleep(epochs_of(model, EPOCHS[preset]))

    model = simulate(deployment(preset), scenario)
    harness = model.harness
    activated = harness.of(Activated)
    assert len(activated) >= EPOCHS[preset]
    assert {e.opening for e in activated[1:]} == {Opening.GATE}
    assert harness.of(GateHeld) == []
    assert harness.of(StepFailed) == []
    assert {e.cause for e in harness.of(LeafWritten)} == {LeafCause.MISSING, LeafCause.ACTIVATION}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_gate_held_by_silent_agent_until_last_resort_twice(preset: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await model.harness.sleep(epochs_of(model, 1.5))
        model.agent("nats-1").proves = False
        await model.harness.sleep(epochs_of(model, 9))

    model = simulate(deployment(preset), scenario)
    openings = [e.opening for e in model.harness.of(Activated)]
    assert openings.count(Opening.LAST_RESORT) >= 2
    assert all(e.unproven == ("nats-1",) for e in model.harness.of(Activated) if e.opening is Opening.LAST_RESORT)
    assert LeafCause.HALF_LIFE in {e.cause for e in model.harness.of(LeafWritten)}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_an_agent_that_stops_working_harms_itself_alone(preset: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await model.harness.sleep(epochs_of(model, 1.5))
        broken = model.agent("nats-2")
        broken.works = broken.proves = False
        await model.harness.sleep(epochs_of(model, 6))
        broken.works = broken.proves = True
        broken.restart()
        await model.harness.sleep(patience(model.harness.timing))
        assert broken.in_use is not None
        await model.harness.sleep(epochs_of(model, 2))
        await model.recovery(patience(model.harness.timing))

    model = simulate(deployment(preset), scenario)
    assert Opening.LAST_RESORT in {e.opening for e in model.harness.of(Activated)}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_an_application_that_never_proves_holds_for_an_epoch_at_most(preset: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await model.harness.sleep(epochs_of(model, 1.5))
        model.agent("orders").proves = False
        await model.harness.sleep(epochs_of(model, 6))

    model = simulate(deployment(preset), scenario)
    openings = [e.opening for e in model.harness.of(Activated)]
    assert openings.count(Opening.DEADLINE) >= 2
    assert Opening.LAST_RESORT not in openings


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_pods_that_start_at_any_time_of_the_epoch_take_the_current_bundle(preset: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await model.harness.sleep(epochs_of(model, 5))
        for eighth in range(8):
            await model.harness.sleep(epochs_of(model, 1 + 1 / 8))
            fresh = model.agents[eighth % len(model.agents)]
            fresh.restart()
            await model.harness.sleep(RELOAD_SECONDS + 0.1)
            assert fresh.in_use is not None

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("epochs", [0.5, 1.0])
def test_an_authority_away_for_half_a_leafs_life_is_not_missed(preset: str, epochs: float) -> None:
    async def scenario(model: FleetSimulation) -> None:
        timing = model.harness.timing
        for start in (3.05, 6.35, 9.65):
            await model.harness.until(model.harness.began + int(epochs_of(model, start)))
            await model.harness.stop()
            spare = 0 if epochs < 1 else timing.tolerance_seconds + timing.delivery_seconds + RELOAD_SECONDS + 20
            await asyncio.sleep(max(0.0, epochs_of(model, epochs) - spare))
            model.harness.boot()
        await model.harness.sleep(epochs_of(model, 2))
        await model.recovery(patience(timing))

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize(
    ("preset", "epochs", "bootstraps"),
    [
        ("playground", 2.0, 1),
        ("playground", 3.5, 2),  # back just before the signing CA ends, too late to have another proven
        ("playground", 4.5, 2),
        ("playground", 9.0, 2),
        ("testing", 2.0, 1),
        ("testing", 3.0, 1),
        ("testing", 4.5, 2),
        ("production", 2.0, 1),
        ("production", 4.5, 2),
    ],
)
def test_an_authority_away_for_longer_recovers_by_itself(preset: str, epochs: float, bootstraps: int) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await model.harness.sleep(epochs_of(model, 3.4))
        await model.harness.stop()
        model.strict = False  # the leaves end
        await asyncio.sleep(epochs_of(model, epochs))
        model.harness.boot()
        await model.recovery(2 * patience(model.harness.timing))
        model.strict = True
        await model.harness.sleep(epochs_of(model, 3))

    model = simulate(deployment(preset), scenario)
    openings = [e.opening for e in model.harness.of(Activated)]
    assert openings.count(Opening.BOOTSTRAP) == bootstraps


@pytest.mark.parametrize(
    ("before", "after"), [("testing", "production"), ("production", "testing"), ("playground", "testing")]
)
def test_longer_and_shorter_epochs_under_way(before: str, after: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        harness = model.harness
        await harness.sleep(epochs_of(model, 3.3))
        await harness.stop()
        model.change_timing(PRESETS[after])
        harness.boot()
        if before == "playground":  # its leaves live for less time than the slower delivery takes
            model.strict = False
            await harness.sleep(2 * patience(harness.timing))
            model.strict = True
        await harness.sleep(epochs_of(model, 5.2))
        await model.recovery(patience(harness.timing))

    model = simulate(deployment(before), scenario)
    last = model.harness.of(Prepared)[-1]
    assert last.epoch == PRESETS[after].clock.newest_due(last.at)


def test_a_pod_that_joins_in_the_middle_of_a_rotation_is_waited_for() -> None:
    async def scenario(model: FleetSimulation) -> None:
        harness = model.harness
        await harness.sleep(epochs_of(model, 3.9))
        agent = model.add("nats-3", PodClass.REQUIRED)
        await harness.sleep(epochs_of(model, 0.4))
        assert harness.rotation.hold is not None
        assert harness.rotation.hold.waiting == ("nats-3",)
        await harness.stop()  # its leaf is configured, which takes a restart
        harness.boot()
        joined = asyncio.create_task(agent.run(), name="nats-3")
        await harness.sleep(1)
        agent.restart()
        await harness.sleep(patience(harness.timing))
        assert harness.rotation.hold is None
        assert agent.in_use is not None
        joined.cancel()
        await asyncio.gather(joined, return_exceptions=True)

    simulate(deployment("testing"), scenario)


def test_forced_rotations_under_way() -> None:
    async def scenario(model: FleetSimulation) -> None:
        harness = model.harness
        for number in range(6):
            await harness.sleep(epochs_of(model, 0.37))
            await harness.rotation.commands.rotate("ada", f"practice {number}")
        await harness.sleep(epochs_of(model, 4))
        await model.recovery(patience(harness.timing))

    model = simulate(deployment("testing", seed=3), scenario)
    assert [e.cause.value for e in model.harness.of(Prepared)].count("forced") == 6


@pytest.mark.parametrize("seed", range(1, 4))
def test_steady_operation_with_other_delays(seed: int) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await model.harness.sleep(epochs_of(model, 12))

    simulate(deployment("testing", seed), scenario)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_bundle_is_good_through_its_whole_life(preset: str) -> None:
    """From its publication until its last CA ends, though its oldest CA expires while it is current."""
    timing = PRESETS[preset]
    scenario, _ = running(timing)
    epoch = timing.clock.epoch_at(START)
    for later in range(epoch + 1, epoch + 8):
        scenario.prepare(later, timing.clock.prepare_at(later))
    before, signed = scenario.history.statements[-2:]
    trust = Trust(DOMAIN, (SIGNER.verifier,), tolerance_seconds=timing.tolerance_seconds)
    previous = Known(Mark(before.statement.sequence, before.digest), reopen(before.bundle, trust))
    oldest, end = signed.statement.intermediates[-1].not_after, signed.statement.expires_at
    assert signed.at < oldest < signed.statement.next_update
    life = [*range(signed.at, end, max(1, (end - signed.at) // 16)), oldest - 1, oldest, oldest + 1, end]
    for now in life:
        for skew in (-timing.tolerance_seconds, 0, timing.tolerance_seconds):
            for known in (Known(), previous):
                verdict = verify(signed.bundle, trust, known, min(now + skew, end))
                assert verdict.digest == signed.digest
