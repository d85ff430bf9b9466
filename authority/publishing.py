"""Sequencer: the newest statement to every target, for ever; each publisher on its own, none waiting for another.

Publishing is reconciled, not remembered: after each statement, and periodically, the targets themselves are compared
with the newest statement of the journal, so that one that was deleted, edited or missed comes back.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from authority.events import Failed, Published, Step
from authority.history import SignedStatement
from authority.journal import JournalConflict, JournalError
from authority.pauses import Pauses
from authority.publish import Outcome, Publisher, PublishError
from authority.surroundings import Surroundings
from tidemark.verify import BundleRejected, VerifiedBundle, reopen


@dataclass(frozen=True, slots=True)
class TargetState:
    """What came of a publisher's last look: ``outcome`` for ``sequence``, or an ``error`` ("" for none)."""

    at: int
    sequence: int
    outcome: Outcome | None
    error: str


class Publishing:
    """Runs one task for each publisher until it is cancelled.

    ``on_newer`` is called where a target shows a validly signed higher statement than the journal has.
    """

    def __init__(
        self, publishers: Sequence[Publisher], surroundings: Surroundings, on_newer: Callable[[], None]
    ) -> None:
        self._publishers = tuple(publishers)
        self._here = surroundings
        self._on_newer = on_newer
        self._states: dict[str, TargetState] = {}
        self._verified: VerifiedBundle | None = None

    @property
    def states(self) -> dict[str, TargetState]:
        """By publisher's name; one that has not looked yet is missing."""
        return dict(self._states)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            for publisher in self._publishers:
                group.create_task(self._keep(publisher), name=f"publish {publisher.name}")

    async def _keep(self, publisher: Publisher) -> None:
        changed = self._here.timeline.watch()
        publisher.watch(changed)
        pauses = Pauses[str](self._here.heartbeat)
        tried = None
        while True:
            changed.clear()
            newest = self._here.timeline.history.newest
            if newest is not None:
                if newest.digest != tried:
                    pauses.succeeded(publisher.name)  # another statement, another chance
                    tried = newest.digest
                await self._bring(publisher, newest, pauses)
            with suppress(TimeoutError):
                async with asyncio.timeout(pauses.left() or self._here.heartbeat):
                    await changed.wait()

    async def _bring(self, publisher: Publisher, newest: SignedStatement, pauses: Pauses[str]) -> None:
        began = asyncio.get_running_loop().time()
        sequence = newest.statement.sequence
        try:
            bundle = await self._confirmed(newest)
            self._here.timeline.check_lease()
            outcome = await publisher.publish(bundle)
        except JournalConflict:
            return  # a newer statement is on its way here
        except (PublishError, JournalError, BundleRejected) as error:
            self._states[publisher.name] = TargetState(self._here.now(), sequence, None, str(error))
            pause = pauses.failed(publisher.name)
            self._here.observe(Failed(self._here.now(), Step.PUBLISH, publisher.name, str(error), pause))
            return
        last = self._states.get(publisher.name)
        self._states[publisher.name] = TargetState(self._here.now(), sequence, outcome, "")
        if outcome is Outcome.NEWER:
            pauses.failed(publisher.name)
            self._on_newer()
        else:
            pauses.succeeded(publisher.name)
        if outcome is not Outcome.UNCHANGED or last is None or last.sequence != sequence or last.error:
            seconds = asyncio.get_running_loop().time() - began
            self._here.observe(Published(self._here.now(), publisher.name, sequence, outcome, seconds))

    async def _confirmed(self, newest: SignedStatement) -> VerifiedBundle:
        """The statement, after one more look at the journal that it still is the newest (invariant 8)."""
        history = await self._here.timeline.read()
        if history.newest is None or history.newest.digest != newest.digest:
            raise JournalConflict(f"statement {newest.statement.sequence}: no longer the newest")
        if self._verified is None or self._verified.digest != newest.digest:
            self._verified = reopen(newest.bundle, self._here.trust)
        return self._verified
