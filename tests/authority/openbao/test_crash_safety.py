"""Every step can be repeated (docs/architecture.md, invariant 10), on a real OpenBao: whatever change of it is struck,
the end is the same.

One deployment lives through many epochs that are all alike. In each of them a few effects of kinds that were not yet
struck are: before they happen or after, by a kill and a restart or by an error, or by a pause before it, during which
another leads. However that epoch went, it must come to what an undisturbed one came to. What an operator does in every
epoch (``Scenario``) brings effects of its own; whatever kinds there are, each is struck.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from authority.controllers.rotation import RotationController
from authority.journal.history import EMPTY, History
from authority.journal.openbao import OpenBaoJournal
from authority.journal.record_types import ActivationRecord, Record, WithdrawalRecord
from authority.journal.replay import replay
from authority.rotation.operator_requests import RotationRefused, WithdrawalRequest
from tests.harness import virtual_time
from tests.harness.authority.harness import check_published
from tests.harness.authority.journal_builder import PLAYGROUND
from tests.harness.authority.memory_backends import Effects, How, When
from tests.harness.openbao.harness import OpenBaoHarness, VirtualClient, set_up_namespace, some_epoch
from tests.harness.openbao.server import OpenBaoServer
from tidemark.bundle import Cause

CLOCK = PLAYGROUND.clock
SETTLED = 5
"""Seconds after an epoch's start by which everything that is due then has been done, also after a restart."""

IN_AN_EPOCH = {How.KILL: 3, How.FAIL: 3, How.PAUSE: 1}
"""Strikes in one epoch: as many as a rotation can recover from in its time."""

PAUSE_SECONDS = 2

GROWN = CLOCK.validity_seconds // CLOCK.epoch_seconds + 2
"""Epochs until one is as the next: CAs expire, are retired, and the oldest copy of a bundle goes."""


@dataclass
class EachKindOnce(Effects):
    """Strikes each kind of effect once before and once after it happens: the next ``left`` that are new."""

    how: How = How.KILL
    left: int = 0
    struck: list[tuple[str, When, How]] = field(default_factory=list)

    def chosen(self, number: int, when: When, name: str) -> How | None:
        kind = (kind_of(name), when, self.how)
        if self.how is How.PAUSE or not self.left or kind in self.struck:
            return None
        return self._strike(kind)

    def pauses(self, number: int, name: str) -> bool:
        kind = (kind_of(name), When.BEFORE, self.how)
        return self.how is How.PAUSE and self.left > 0 and kind not in self.struck and bool(self._strike(kind))

    def _strike(self, kind: tuple[str, When, How]) -> How:
        self.struck.append(kind)
        self.left -= 1
        return self.how


def kind_of(effect: str) -> str:
    """An effect's name without what is new each time."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+", "#", effect)


@dataclass(frozen=True)
class Scenario:
    """What an operator does in every epoch, again and again until ``is_done`` finds it among the epoch's records."""

    ask: Callable[[RotationController], Awaitable[object]] | None = None
    is_done: Callable[[Record], bool] = lambda _: True
    hows: tuple[How, ...] = (How.KILL, How.FAIL)


async def revoke(rotation: RotationController, *, urgent: bool = False) -> None:
    signing = rotation.history.signing
    if signing is None:
        raise RotationRefused("the journal was not read yet")
    await rotation.commands.withdraw(
        "ada", "its key has leaked", WithdrawalRequest(Cause.REVOCATION, signing.sha256, urgent=urgent)
    )


async def roll_back(rotation: RotationController, *, urgent: bool = False) -> None:
    """Of the CA that signed before: the one that signs is the replacement, and no new one is made."""
    history, signing = rotation.history, rotation.history.signing
    before = [
        ca for ca in history.cas if signing is not None and ca.issue_order < signing.issue_order and not ca.withdrawal
    ]
    if not before:
        raise RotationRefused("there is none yet, or the journal was not read yet")
    await rotation.commands.withdraw(
        "ada", "nats-2 refuses it", WithdrawalRequest(Cause.ROLLBACK, before[-1].sha256, urgent=urgent)
    )


def is_withdrawal(record: Record) -> bool:
    return isinstance(record, WithdrawalRecord)


SCENARIOS = {
    "rotation": Scenario(hows=tuple(How)),
    "revocation": Scenario(revoke, is_withdrawal),
    "revocation at once": Scenario(partial(revoke, urgent=True), is_withdrawal),
    "rollback": Scenario(roll_back, is_withdrawal),
    "rollback at once": Scenario(partial(roll_back, urgent=True), is_withdrawal),
}


@dataclass(frozen=True)
class End:
    """What an epoch came to; epochs and sequences count from its beginning.

    Of an urgent withdrawal it depends on when the receipts come whether proofs or the override open the gate.
    """

    statements: list[tuple[int, int, Cause]]
    activations: list[tuple[int, str]]
    signing: tuple[int, int]
    cas: set[tuple[int, int]]


class Life:
    """A deployment, epoch after epoch; ``begun`` is the epoch that runs, and the sequence at its beginning."""

    def __init__(self, harness: OpenBaoHarness, scenario: Scenario) -> None:
        self._harness = harness
        self._scenario = scenario
        self._epoch = CLOCK.epoch_at(harness.began)
        self._history = EMPTY
        self._reader = VirtualClient(harness.access(), Effects())
        self._journal = OpenBaoJournal(self._reader, harness.space.layout.kv, harness.space.layout.prefix)
        self._seen = 0

    async def run(self, strikes: EachKindOnce) -> None:
        async with self._reader:
            try:
                await self._harness.start()
                await self._go_through(strikes)
            finally:
                await self._harness.stop()
                await self._harness.close()

    async def _go_through(self, strikes: EachKindOnce) -> None:
        for _ in range(GROWN):
            expected = await self._live_an_epoch()
        assert expected == await self._live_an_epoch(), "epochs are not alike"
        for how in self._scenario.hows:
            count, strikes.how, strikes.left = IN_AN_EPOCH[how], how, 0
            while not strikes.left:  # or there is none that was not struck yet
                strikes.left = count
                assert await self._live_an_epoch() == expected, f"{strikes.struck[-count:]}"

    async def _be_paused(self) -> None:
        """Another leads meanwhile; then the first goes on with what it was about to do."""
        harness, effects = self._harness, self._harness.effects
        paused, client = harness.depose(), harness.client
        assert client is not None
        await asyncio.sleep(0.5)
        await harness.start_beside()
        await asyncio.sleep(PAUSE_SECONDS)
        effects.resumed.set()
        await asyncio.sleep(0.5)
        paused.cancel()  # it has found that it leads no longer
        (ended,) = await asyncio.gather(paused, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
        async with client:
            effects.paused, effects.resumed = asyncio.Event(), asyncio.Event()

    async def _live_an_epoch(self) -> End:
        harness, scenario, before = self._harness, self._scenario, self._history
        end = CLOCK.start(self._epoch + 1) + SETTLED
        request: asyncio.Future[object] | None = None
        is_done = scenario.ask is None
        while harness.now() < end:
            await asyncio.sleep(0.5)
            if harness.effects.paused.is_set():
                await self._be_paused()
            elif await harness.died():
                await asyncio.sleep(0.5)
                await harness.start()
            elif scenario.ask is not None and not is_done and request is None:
                request = asyncio.ensure_future(scenario.ask(harness.rotation))
            if request is not None and request.done():
                await self._check_answer(request)
                request, is_done = None, await self._is_done(before)
        self._epoch += 1
        self._history = await self._read()
        return await self._end(before, self._history)

    async def _check_answer(self, request: "asyncio.Future[object]") -> None:
        """What an operator is told may be that it did not work; the journal says whether it did."""
        (answer,) = await asyncio.gather(request, return_exceptions=True)
        if isinstance(answer, BaseException) and not isinstance(answer, RotationRefused | asyncio.CancelledError):
            raise answer

    async def _is_done(self, before: History) -> bool:
        head = await self._journal.head()
        if head in (before.head, self._seen):
            return False
        self._seen = head
        entries = (await self._read()).entries
        return any(entry.position > before.head and self._scenario.is_done(entry.record) for entry in entries)

    async def _read(self) -> History:
        return replay(await self._journal.read())

    async def _end(self, before: History, history: History) -> End:
        """The end, after checking what must hold however it was reached."""
        harness = self._harness
        newest, signing = history.newest, history.signing
        assert newest is not None
        assert signing is not None
        with virtual_time.from_outside():
            keys, issuers = await harness.space.names("keys"), await harness.space.names("issuers")
            default = await harness.space.default_name()
        issuers -= {""}  # a second certificate for a key, imported by one that was paused: it goes with the key
        assert keys == issuers, "a key without its issuer, or the other way round"
        assert issuers <= {ca.ca_id for ca in history.cas}, "a CA that no statement names"
        unretired = {ca.ca_id for ca in history.cas if harness.now() < ca.retire_at}
        assert issuers == unretired, "a CA is gone that may still be needed, or one stayed"
        assert default == signing.ca_id
        check_published(harness, history)
        sequence = before.newest.statement.sequence if before.newest else 0

        def relative(ca_id: str) -> tuple[int, int]:
            _, of_epoch, number = ca_id.split("-")
            return int(of_epoch) - self._epoch, int(number) - sequence

        epochs = {ca.sha256: ca.epoch - self._epoch for ca in history.cas}
        return End(
            statements=[
                (signed.statement.sequence - sequence, signed.statement.epoch - self._epoch, signed.statement.cause)
                for signed in history.statements
                if signed.position > before.head
            ],
            activations=[
                (epochs[entry.record.ca], entry.record.opening.value.replace("override", "gate"))
                for entry in history.entries
                if entry.position > before.head and isinstance(entry.record, ActivationRecord)
            ],
            signing=relative(signing.ca_id),
            cas={relative(ca_id) for ca_id in issuers},
        )


KINDS = {
    "nats_int/keys/generate/internal",
    "nats_int/intermediate/generate/existing",
    "pki/issuer/#/sign-intermediate",
    "nats_int/intermediate/set-signed",
    "patch nats_int/issuer/#",
    "transit/sign/tidemark",
    "secret/data/ca-bundles/journal/# statement",
    "secret/data/ca-bundles/epoch-#-#",
    "publish to mounts",
    "secret/data/ca-bundles/journal/# activation",
    "nats_int/config/issuers",
    "nats_int/issuer/#/sign/tidemark",
    "leaf to secrets/nats-#",
    "delete nats_int/issuer/#",
    "delete nats_int/key/#",
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_epoch_ends_the_same_whatever_is_struck(openbao: OpenBaoServer, name: str) -> None:
    strikes, scenario = EachKindOnce(), SCENARIOS[name]

    async def main() -> None:
        began = CLOCK.start(some_epoch())
        async with set_up_namespace(openbao, began) as space:
            await Life(OpenBaoHarness(began=began, effects=strikes, space=space), scenario).run(strikes)

    virtual_time.run(main())
    for how in scenario.hows:
        struck = {kind.removeprefix("write ") for kind, _, found in strikes.struck if found is how}
        assert any(kind.endswith(" withdrawal") for kind in struck) is (scenario.ask is not None)
        assert struck >= KINDS
