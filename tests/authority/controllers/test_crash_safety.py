"""Every step can be repeated (docs/architecture.md, invariant 10): whatever effect on the outside is struck,
the end is the same.

Each scenario is lived once undisturbed, which counts its effects; then once for each of them, killed before it or after
it and started again, once with an error before it or after it and no restart, and once paused before it: another leads
meanwhile, and when the first is resumed it does what it was about to do.
"""

import asyncio
from dataclasses import dataclass, replace

import pytest

from authority.issuer.interface import IssuerHoldings
from authority.issuer.serialized import SerializedIssuer
from authority.journal.replay import replay
from authority.rotation.operator_requests import RotationRefused
from tests.harness import virtual_time
from tests.harness.authority.harness import AuthorityHarness, check_published
from tests.harness.authority.journal_builder import PLAYGROUND, START
from tests.harness.authority.memory_backends import Effects, How, Strike, When
from tests.harness.authority.withdrawal_orders import Order, withdraw
from tests.harness.virtual_time import in_virtual_time
from tidemark.bundle import Cause

pytestmark = pytest.mark.long

CLOCK = PLAYGROUND.clock

PAUSE_SECONDS = 2

SECONDS_BEFORE = 12 * 20 - 5
"""Of the grown deployment: just before the epoch at whose start the journal is first folded."""


@dataclass(frozen=True)
class End:
    """What a scenario comes to, in words that do not depend on keys.

    Of an urgent withdrawal it depends on when the receipts come whether proofs or the override open the gate.
    """

    statements: list[tuple[int, int, Cause]]
    activations: list[tuple[str, str]]
    withdrawals: list[tuple[str, Cause, bool, int | None]]
    withdrawn: set[str]
    signing: str
    ca_ids: set[str]


async def end_of(harness: AuthorityHarness) -> End:
    """The end, after checking what must hold however it was reached."""
    history = replay(await harness.journal.read())
    newest, signing = history.newest, history.signing
    assert newest is not None
    assert signing is not None
    ca_ids = {ca.sha256: ca.ca_id for ca in history.cas}
    named = {ca.ca_id for ca in history.cas if ca.ca_id}
    assert set(harness.issuer.cas) <= named, "a CA that no statement names"
    unretired = {ca.ca_id for ca in history.cas if ca.ca_id and harness.now() < ca.retire_at}
    assert unretired <= set(harness.issuer.cas), "a CA is gone that may still be needed"
    check_published(harness, history)
    assert harness.issuer.active == signing.ca_id
    return End(
        statements=[(s.statement.sequence, s.statement.epoch, s.statement.cause) for s in history.statements],
        activations=[
            (ca_ids[a.ca], a.opening.value.replace("override", "gate")) for a in history.activations if a.ca in ca_ids
        ],
        withdrawals=[
            (ca.ca_id, ca.withdrawal.cause, ca.withdrawal.urgent, ca.removal.sequence if ca.removal else None)
            for ca in history.cas
            if ca.withdrawal
        ],
        withdrawn={ca_ids[sha256] for sha256 in newest.statement.withdrawn},
        signing=signing.ca_id,
        ca_ids=set(harness.issuer.cas),
    )


def rotate(at: int) -> Order:
    return Order(
        at,
        lambda rotation: rotation.commands.rotate("ada", "a key may have leaked"),
        lambda history: any(signed.statement.cause is Cause.FORCED for signed in history.statements),
    )


async def live(harness: AuthorityHarness, seconds: int, order: Order | None) -> None:
    """Let time pass; whoever dies is started again, and an operator asks for one thing and sees it through."""
    harness.boot()
    request: asyncio.Task[object] | None = None
    stands = order is None
    takeover = asyncio.create_task(take_over(harness))
    for half in range(seconds * 2):
        await asyncio.sleep(0.5)
        harness.rotation.wake()  # a receipt has come
        if request is not None and request.done() and order is not None:
            stands = await is_standing(harness, request, order)
            request = None
        if await harness.died():
            await asyncio.sleep(0.5)
            harness.boot()
        elif not stands and request is None and order is not None and half >= 2 * order.at:
            request = asyncio.ensure_future(order.ask(harness.rotation))
    if not harness.effects.paused.is_set():
        takeover.cancel()
    (ended,) = await asyncio.gather(takeover, return_exceptions=True)
    assert ended is None or isinstance(ended, asyncio.CancelledError), ended
    await harness.stop()


async def take_over(harness: AuthorityHarness) -> None:
    """Where one is paused another leads; whoever asked the first still waits for it."""
    await harness.effects.paused.wait()
    paused = harness.depose()
    await asyncio.sleep(0.5)
    harness.boot()
    await asyncio.sleep(PAUSE_SECONDS)
    harness.effects.resumed.set()
    await asyncio.sleep(0.1)
    paused.cancel()  # it has found that it leads no longer
    (ended,) = await asyncio.gather(paused, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended


async def is_standing(harness: AuthorityHarness, request: "asyncio.Future[object]", order: Order) -> bool:
    """Whether what was asked for stands in the journal, whatever the operator was told."""
    (answer,) = await asyncio.gather(request, return_exceptions=True)
    if isinstance(answer, BaseException) and not isinstance(answer, RotationRefused | asyncio.CancelledError):
        raise answer
    return order.stands(replay(await harness.journal.read()))


@dataclass(frozen=True)
class Scenario:
    """A world to start from, how long to live, and what an operator asks for."""

    base: AuthorityHarness | None
    seconds: int
    order: Order | None

    def run(self, strike: Strike | None) -> tuple[End, list[str]]:
        async def main() -> tuple[End, list[str]]:
            harness = AuthorityHarness(effects=Effects(strike))
            if self.base is not None:
                harness.began = self.base.began
                copy_world(self.base, harness)
            await live(harness, self.seconds, self.order)
            assert harness.effects.paused.is_set() is (strike is not None and strike.how is How.PAUSE)
            return await end_of(harness), harness.effects.names

        return virtual_time.run(main())


def copy_world(source: AuthorityHarness, harness: AuthorityHarness) -> None:
    harness.journal.records, harness.journal.last = dict(source.journal.records), source.journal.last
    harness.issuer.cas, harness.issuer.active = dict(source.issuer.cas), source.issuer.active
    harness.target.bundle, harness.leaf.leaf = source.target.bundle, source.leaf.leaf


@pytest.fixture(scope="module")
def young() -> Scenario:
    """From nothing, over a forced rotation, to the second epoch."""
    return Scenario(base=None, seconds=25, order=rotate(4))


@pytest.fixture(scope="module")
def grown() -> Scenario:
    """A deployment that has run for a while: CAs are retired and the journal is folded."""
    return Scenario(base=lived(SECONDS_BEFORE), seconds=24, order=None)


def lived(seconds: int) -> AuthorityHarness:
    """What is left of an authority that ran for so long."""

    async def main() -> AuthorityHarness:
        harness = AuthorityHarness()
        harness.boot()
        await harness.sleep(seconds)
        await harness.stop()
        return harness

    base = virtual_time.run(main())
    base.began = START + seconds
    return base


@pytest.fixture(scope="module")
def second_epoch() -> AuthorityHarness:
    """A deployment in which a second CA has just begun to sign."""
    return lived(21)


def disturb(scenario: Scenario, how: How) -> list[str]:
    expected, names = scenario.run(None)
    for number, name in enumerate(names):
        for when in When if how is not How.PAUSE else (When.BEFORE,):
            end, _ = scenario.run(Strike(number, when, how))
            assert end == expected, f"{how.value} {when.value} effect {number}, {name}"
    return names


@pytest.mark.parametrize("how", How)
def test_young_deployment_ends_the_same_after_any_fault(young: Scenario, how: How) -> None:
    names = disturb(young, how)
    kinds = {name.split()[0] for name in names}
    assert kinds == {"issue", "sign", "append", "publish", "activate", "write"}


@pytest.mark.parametrize("how", How)
def test_grown_deployment_ends_the_same_after_any_fault(grown: Scenario, how: How) -> None:
    names = disturb(grown, how)
    kinds = {name.split()[0] for name in names}
    assert kinds == {"issue", "sign", "append", "publish", "activate", "write", "delete", "fold"}


FIRST, SECOND = CLOCK.epoch_at(START), CLOCK.epoch_at(START) + 1

WITHDRAWALS = {
    "rollback": withdraw(1, Cause.ROLLBACK, "", urgent=False),
    "rollback of an idle CA": withdraw(1, Cause.ROLLBACK, str(FIRST), urgent=False),
    "rollback at once": withdraw(1, Cause.ROLLBACK, "", urgent=True),
    "revocation": withdraw(1, Cause.REVOCATION, str(SECOND), urgent=False),
    "revocation at once": withdraw(1, Cause.REVOCATION, str(SECOND), urgent=True),
    "revocation of an idle CA at once": withdraw(1, Cause.REVOCATION, str(FIRST), urgent=True),
}


@pytest.mark.parametrize("how", How)
@pytest.mark.parametrize("name", WITHDRAWALS)
def test_no_withdrawal_is_forgotten_after_any_fault(second_epoch: AuthorityHarness, name: str, how: How) -> None:
    order = WITHDRAWALS[name]
    scenario = Scenario(base=second_epoch, seconds=9, order=order)
    end, _ = scenario.run(None)
    ((_, _, _, left_out_by),) = end.withdrawals
    assert left_out_by is not None
    assert len(end.withdrawn) == 1
    assert end.statements[-1][2] in (Cause.ROLLBACK, Cause.REVOCATION)
    names = disturb(scenario, how)
    assert "append WithdrawalRecord" in names


@in_virtual_time
async def test_a_clock_changed_between_a_crash_and_the_restart_leaves_no_ca_behind() -> None:
    harness = AuthorityHarness()
    harness.boot()
    await harness.until(START + 11)
    harness.effects.strike = Strike(len(harness.effects.names) + 1, When.BEFORE, How.KILL)  # after issuing
    await harness.sleep_until_death()
    harness.timing = replace(PLAYGROUND, clock=replace(CLOCK, validity_seconds=100))
    harness.boot()
    await harness.until(START + 15)
    history = replay(await harness.journal.read())
    assert set(harness.issuer.cas) == {ca.ca_id for ca in history.cas}
    assert history.cas[-1].not_after == START + 20 + 100
    await harness.stop()


@in_virtual_time
async def test_the_issuer_is_shared_one_call_at_a_time() -> None:
    class Counting:
        running = 0
        most = 0

        async def holdings(self) -> IssuerHoldings:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(1)
            self.running -= 1
            return IssuerHoldings({})

    counting = Counting()
    issuer = SerializedIssuer(counting)  # type: ignore[arg-type]  # only holdings is asked for
    await asyncio.gather(*(issuer.holdings() for _ in range(5)))
    assert counting.most == 1
