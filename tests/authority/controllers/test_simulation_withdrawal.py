"""Withdrawals in a simulated deployment: no valid leaf loses its trust in a staged one, whatever happens meanwhile.

See ``model`` for what is real in it, and what is checked at each change of what any workload uses.
"""

import pytest

from authority.journal.record_types import Opening
from authority.rotation.events import Activated, AnchorsRemoved, Prepared
from authority.rotation.operator_requests import WithdrawalRequest
from tests.harness.authority.fleet_simulation import FleetSimulation, deployment, epochs_of, patience, simulate
from tidemark.bundle import Cause
from tidemark.epoch import PRESETS

pytestmark = pytest.mark.long

PRESET_NAMES = sorted(PRESETS)
PAIRS = [("playground", Cause.ROLLBACK), ("testing", Cause.REVOCATION), ("production", Cause.ROLLBACK)]
"""Each preset and each cause; every one with every other would say no more, and take the time of it."""
ROLLBACK = WithdrawalRequest(Cause.ROLLBACK, "", urgent=False)


async def until_epoch(model: FleetSimulation, epochs: float) -> None:
    """Epochs since the beginning, which is the start of one."""
    await model.harness.until(model.harness.began + int(epochs_of(model, epochs)))


async def withdraw(model: FleetSimulation, cause: Cause, ca: str = "", *, urgent: bool = False) -> str:
    """Have an operator ask for it; returns the fingerprint of the CA."""
    found = await model.harness.rotation.commands.withdraw("ada", "it leaked", WithdrawalRequest(cause, ca, urgent))
    return found.sha256


def signing(model: FleetSimulation) -> str:
    found = model.harness.journal_store.history.signing
    assert found is not None
    return found.sha256


def staged(model: FleetSimulation) -> float:
    """How long a staged withdrawal takes where all agents are well: three deliveries, to be proven each."""
    return 3 * patience(model.harness.timing)


def is_gone(model: FleetSimulation, *cas: str) -> bool:
    """Whether no working agent trusts any of these."""
    return not any(
        set(cas) & agent.in_use.bundle.intermediates
        for agent in model.agents
        if agent.in_use is not None and agent.works
    )


async def over(model: FleetSimulation, *cas: str) -> None:
    """A staged withdrawal takes its time; then the CAs are trusted by nobody and everybody is well."""
    await model.harness.sleep(staged(model))
    await model.recovery(staged(model))
    assert is_gone(model, *cas)


@pytest.mark.parametrize(("preset", "cause"), PAIRS)
@pytest.mark.parametrize("at", [3.0, 3.62])
def test_the_signing_ca_is_withdrawn(preset: str, cause: Cause, at: float) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await until_epoch(model, at)
        await model.harness.sleep(1)
        await over(model, await withdraw(model, cause, signing(model)))
        await model.harness.sleep(epochs_of(model, 3))

    model = simulate(deployment(preset), scenario)
    assert {e.opening for e in model.harness.of(Activated)[1:]} == {Opening.GATE}
    assert [e.cause for e in model.harness.of(AnchorsRemoved)] == [cause]


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_two_revocations_seconds_apart(preset: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await until_epoch(model, 3.2)
        first = await withdraw(model, Cause.REVOCATION, signing(model))
        await model.harness.sleep(2)
        forced = model.harness.of(Prepared)[-1].ca
        assert forced != first
        await over(model, first, await withdraw(model, Cause.REVOCATION, forced))
        await model.harness.sleep(epochs_of(model, 2))

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("which", ["newest", "signing"])
def test_a_rollback_in_the_last_seconds_of_an_epoch(preset: str, which: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await model.harness.until(model.harness.began + int(epochs_of(model, 4)) - 2)
        await over(model, await withdraw(model, Cause.ROLLBACK, "" if which == "newest" else signing(model)))
        await model.harness.sleep(epochs_of(model, 3))

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize(("preset", "cause"), PAIRS)
def test_a_ca_that_is_not_signing_is_withdrawn(preset: str, cause: Cause) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await until_epoch(model, 3.4)
        cas = model.harness.journal_store.history.cas
        before = cas[[ca.sha256 for ca in cas].index(signing(model)) - 1]
        await over(model, await withdraw(model, cause, before.sha256))
        await model.harness.sleep(epochs_of(model, 2))

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize(
    ("preset", "at", "pause"),
    [
        ("playground", 3.95, 0.0),
        ("playground", 3.5, 0.0),
        ("playground", 3.5, 2.0),
        ("testing", 3.0, 0.0),
        ("testing", 3.95, 2.0),
        ("production", 3.95, 0.0),
    ],
)
def test_three_rollbacks_in_a_row(preset: str, at: float, pause: float) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await until_epoch(model, at)
        bad = []
        for _ in range(3):
            bad.append(await withdraw(model, Cause.ROLLBACK))
            await model.harness.sleep(pause)
        assert len(set(bad)) == 3
        await over(model, *bad)
        await model.harness.sleep(epochs_of(model, 4))
        await model.recovery(staged(model))

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize("preset", ["playground", "testing"])
def test_a_rollback_in_every_epoch(preset: str) -> None:
    async def scenario(model: FleetSimulation) -> None:
        for number in range(3, 11):
            await until_epoch(model, number + 0.1)
            await withdraw(model, Cause.ROLLBACK)
        await model.harness.sleep(epochs_of(model, 2))
        await model.recovery(staged(model))

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize(("preset", "cause"), PAIRS)
def test_agent_that_never_proves_holds_until_last_resort_without_harm(preset: str, cause: Cause) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await until_epoch(model, 3.1)
        model.agent("nats-1").proves = False
        bad = await withdraw(model, cause, signing(model))
        await model.harness.sleep(epochs_of(model, 2))
        assert model.harness.of(AnchorsRemoved) == []
        await model.harness.sleep(epochs_of(model, 3))
        assert is_gone(model, bad)
        await model.harness.sleep(epochs_of(model, 3))

    model = simulate(deployment(preset), scenario)
    assert Opening.LAST_RESORT in {e.opening for e in model.harness.of(Activated)}


@pytest.mark.parametrize(("preset", "cause"), PAIRS[:2])
@pytest.mark.parametrize("seconds", [0, 1, 12])
def test_the_authority_is_away_for_half_an_epoch_in_the_middle_of_it(preset: str, cause: Cause, seconds: int) -> None:
    async def scenario(model: FleetSimulation) -> None:
        harness = model.harness
        await until_epoch(model, 3.05)
        bad = await withdraw(model, cause, signing(model))
        await harness.sleep(seconds)
        await harness.stop()
        spare = harness.timing.tolerance_seconds + harness.timing.delivery_seconds
        await harness.sleep(max(1.0, epochs_of(model, 0.5) - spare))
        harness.boot()
        await over(model, bad)
        await harness.sleep(epochs_of(model, 2))

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize(("preset", "cause"), PAIRS[:2])
@pytest.mark.parametrize("epochs", [1.0, 3.5, 4.5])
def test_the_authority_is_away_for_longer_and_forgets_nothing(preset: str, cause: Cause, epochs: float) -> None:
    async def scenario(model: FleetSimulation) -> None:
        harness = model.harness
        await until_epoch(model, 3.05)
        bad = await withdraw(model, cause, signing(model))
        await harness.sleep(1)
        await harness.stop()
        model.strict = False  # the leaves end
        await harness.sleep(epochs_of(model, epochs))
        harness.boot()
        await harness.sleep(staged(model))
        await model.recovery(epochs_of(model, 1) + staged(model))
        assert signing(model) != bad
        model.strict = True
        await harness.sleep(epochs_of(model, 5))
        assert is_gone(model, bad)

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [("testing", "production", Cause.ROLLBACK), ("production", "testing", Cause.REVOCATION)],
)
def test_longer_and_shorter_epochs_in_the_middle_of_it(before: str, after: str, cause: Cause) -> None:
    async def scenario(model: FleetSimulation) -> None:
        harness = model.harness
        await until_epoch(model, 3.3)
        bad = await withdraw(model, cause, signing(model))
        await harness.sleep(1)
        await harness.stop()
        model.change_timing(PRESETS[after])
        harness.boot()
        await harness.sleep(epochs_of(model, 5.2))
        await model.recovery(staged(model))
        assert is_gone(model, bad)

    simulate(deployment(before), scenario)


@pytest.mark.parametrize(("preset", "cause"), PAIRS)
def test_urgent_withdrawal_breaks_what_preview_says_until_next_delivery(preset: str, cause: Cause) -> None:
    async def scenario(model: FleetSimulation) -> None:
        await until_epoch(model, 3.3)
        model.strict = False
        bad = await withdraw(model, cause, signing(model), urgent=True)
        await model.harness.sleep(patience(model.harness.timing))
        assert is_gone(model, bad)
        await model.recovery(patience(model.harness.timing))
        model.strict = True
        await model.harness.sleep(epochs_of(model, 3))

    simulate(deployment(preset), scenario)


@pytest.mark.parametrize("seed", range(2))
def test_withdrawals_at_random(seed: int) -> None:
    """Staged ones of any CA at any time, with rotations forced in between."""

    async def scenario(model: FleetSimulation) -> None:
        harness = model.harness
        await until_epoch(model, 3)
        for _ in range(24):
            await harness.sleep(model.random.uniform(0, epochs_of(model, 0.8)))
            cas = [
                ca for ca in harness.journal_store.history.cas if not ca.is_expired(harness.now()) and not ca.withdrawal
            ]
            what = model.random.choice([Cause.ROLLBACK, Cause.REVOCATION, Cause.FORCED])
            if what is Cause.FORCED:
                await harness.rotation.commands.rotate("ada", "practice")
            elif cas:
                await withdraw(model, what, model.random.choice(cas).sha256)
        await harness.sleep(epochs_of(model, 2))
        await model.recovery(staged(model))

    simulate(deployment("testing", seed), scenario)
