"""Sequencer: the newest statement to every target, for ever; each publisher on its own, none waiting for another.

Publishing is reconciled, not remembered: after each statement, and periodically, the targets themselves are compared
with the newest statement of the journal, so that one that was deleted, edited or missed comes back.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from authority.controllers.context import ControllerContext
from authority.journal.history import SignedStatement
from authority.journal.interface import JournalConflict, JournalError
from authority.publishers.interface import Publisher, PublishError, PublishOutcome, PublishResult
from authority.rotation.actions import Step
from authority.rotation.events import HigherStatementFound, Published, StepFailed
from authority.support.backoff import Backoff
from tidemark.verify import BundleRejected, VerifiedBundle, reopen

_NAMED = 10  # failures in one error


@dataclass(frozen=True, slots=True)
class TargetState:
    """What came of a publisher's last look for ``sequence``.

    ``outcome`` is None where a target failed and none showed a higher sequence; ``error`` says which failed ("" for
    none), ``newer`` which show a validly signed higher sequence.
    """

    at: int
    sequence: int
    outcome: PublishOutcome | None
    error: str
    newer: tuple[str, ...] = ()


class PublishingController:
    """Runs one task for each publisher until it is cancelled.

    ``on_newer`` is called where a target shows a validly signed higher statement than the journal has.
    """

    def __init__(
        self, publishers: Sequence[Publisher], surroundings: ControllerContext, on_newer: Callable[[], None]
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
        pauses = Backoff[str](self._here.heartbeat)
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
                async with asyncio.timeout(pauses.seconds_left() or self._here.heartbeat):
                    await changed.wait()

    async def _bring(self, publisher: Publisher, newest: SignedStatement, pauses: Backoff[str]) -> None:
        began = asyncio.get_running_loop().time()
        sequence = newest.statement.sequence
        try:
            bundle = await self._confirmed(newest)
            self._here.timeline.check_lease()
            brought = await publisher.publish(bundle)
        except JournalConflict:
            return  # a newer statement is on its way here
        except (PublishError, JournalError, BundleRejected) as error:
            brought = PublishResult(failed=(str(error),))
        self._take(publisher.name, sequence, brought, asyncio.get_running_loop().time() - began, pauses)

    def _take(self, name: str, sequence: int, brought: PublishResult, seconds: float, pauses: Backoff[str]) -> None:
        now, last = self._here.now(), self._states.get(name)
        outcome = brought.outcome if brought.newer or not brought.failed else None
        self._states[name] = TargetState(now, sequence, outcome, _sentence(brought.failed), brought.newer)
        if not brought.newer and not brought.failed:
            pauses.succeeded(name)
        else:
            pause = pauses.failed(name)
        if brought.failed:
            self._here.observe(StepFailed(now, Step.PUBLISH, name, _sentence(brought.failed), pause))
        if brought.newer:
            if last is None or (last.sequence, last.newer) != (sequence, brought.newer):
                self._here.observe(HigherStatementFound(now, name, sequence, brought.newer))
            self._on_newer()
        is_news = last is None or last.sequence != sequence or last.error or outcome is not PublishOutcome.UNCHANGED
        if outcome is not None and is_news:
            self._here.observe(Published(now, name, sequence, outcome, seconds))

    async def _confirmed(self, newest: SignedStatement) -> VerifiedBundle:
        """The statement, if the journal still has it as the newest (docs/architecture.md, invariant 8)."""
        history = await self._here.timeline.read()
        if history.newest is None or history.newest.digest != newest.digest:
            raise JournalConflict(f"statement {newest.statement.sequence}: no longer the newest")
        if self._verified is None or self._verified.digest != newest.digest:
            self._verified = reopen(newest.bundle, self._here.trust)
        return self._verified


def _sentence(failed: Sequence[str]) -> str:
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    return "; ".join(failed[:_NAMED]) + more
