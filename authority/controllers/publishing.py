"""Controller of the publishers: brings the newest statement to every target; no publisher waits for another.

After each statement, and periodically, the targets themselves are compared with the newest statement of the journal, so
that a target that was deleted, edited or missed is written again.
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

_NAMED = 10
"""Failed targets that one error names at most."""


@dataclass(frozen=True, slots=True)
class TargetState:
    """The result of a publisher's last run."""

    at: int
    """Unix seconds."""

    sequence: int
    """The statement that was to be published."""

    outcome: PublishOutcome | None
    """None where a target failed and none showed a higher sequence."""

    error: str
    """Which targets failed, and why; "" for none."""

    newer: tuple[str, ...] = ()
    """Targets that show a validly signed higher sequence."""


class PublishingController:
    """Runs one task for each publisher until it is cancelled.

    ``on_newer`` is called where a target shows a validly signed higher statement than the journal has. ``on_publish``
    is called with a statement's digest right before a publisher compares its targets with the statement, and writes.
    """

    def __init__(
        self,
        publishers: Sequence[Publisher],
        context: ControllerContext,
        on_newer: Callable[[], None],
        on_publish: Callable[[str], None],
    ) -> None:
        self._publishers = tuple(publishers)
        self._context = context
        self._on_newer = on_newer
        self._on_publish = on_publish
        self._states: dict[str, TargetState] = {}
        self._verified: VerifiedBundle | None = None

    @property
    def states(self) -> dict[str, TargetState]:
        """By publisher's name; without publishers that have not run yet."""
        return dict(self._states)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            for publisher in self._publishers:
                group.create_task(self._run_publisher(publisher), name=f"publish {publisher.name}")

    async def _run_publisher(self, publisher: Publisher) -> None:
        changed = self._context.journal.watch()
        publisher.watch(changed)
        backoff = Backoff[str](self._context.heartbeat)
        tried = None
        while True:
            # Cleared before the journal is read: a statement that is committed meanwhile sets the event again.
            changed.clear()
            newest = self._context.journal.history.newest
            if newest is not None:
                if newest.digest != tried:
                    backoff.succeeded(publisher.name)  # another statement, another chance
                    tried = newest.digest
                await self._deliver(publisher, newest, backoff)
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.seconds_left() or self._context.heartbeat):
                    await changed.wait()

    async def _deliver(self, publisher: Publisher, newest: SignedStatement, backoff: Backoff[str]) -> None:
        began = asyncio.get_running_loop().time()
        sequence = newest.statement.sequence
        try:
            bundle = await self._confirmed(newest)
            # The order is fixed: the journal first, because reading takes time; then the lease; then the hook, which
            # starts the measured time of a rollout. Nothing is awaited between the lease check and the publisher.
            self._context.journal.check_lease()
            self._on_publish(bundle.digest)
            result = await publisher.publish(bundle)
        except JournalConflict:
            return  # a newer statement was committed: its event has us run again
        except (PublishError, JournalError, BundleRejected) as error:
            result = PublishResult(failed=(str(error),))
        self._record(publisher.name, sequence, result, asyncio.get_running_loop().time() - began, backoff)

    def _record(self, name: str, sequence: int, result: PublishResult, seconds: float, backoff: Backoff[str]) -> None:
        now, last = self._context.now(), self._states.get(name)
        # A higher sequence counts even where another target failed: the journal has to catch up with it.
        outcome = result.outcome if result.newer or not result.failed else None
        self._states[name] = TargetState(now, sequence, outcome, _summary_of(result.failed), result.newer)
        if not result.newer and not result.failed:
            backoff.succeeded(name)
        else:
            pause = backoff.failed(name)
        if result.failed:
            self._context.observe(StepFailed(now, Step.PUBLISH, name, _summary_of(result.failed), pause))
        if result.newer:
            if last is None or (last.sequence, last.newer) != (sequence, result.newer):
                self._context.observe(HigherStatementFound(now, name, sequence, result.newer))
            self._on_newer()
        # A target that already shows the statement is reported once, not at every heartbeat.
        is_news = last is None or last.sequence != sequence or last.error or outcome is not PublishOutcome.UNCHANGED
        if outcome is not None and is_news:
            self._context.observe(Published(now, name, sequence, outcome, seconds))

    async def _confirmed(self, newest: SignedStatement) -> VerifiedBundle:
        """The statement, verified, if the journal still has it as the newest (docs/architecture.md, invariant 8).

        Raises:
            JournalConflict: the journal has a newer statement.
            JournalError: the journal could not be read.
            BundleRejected: the statement does not verify by the configured keys.
        """
        history = await self._context.journal.read()
        if history.newest is None or history.newest.digest != newest.digest:
            raise JournalConflict(f"statement {newest.statement.sequence}: no longer the newest")
        if self._verified is None or self._verified.digest != newest.digest:
            self._verified = reopen(newest.bundle, self._context.trust)
        return self._verified


def _summary_of(failed: Sequence[str]) -> str:
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    return "; ".join(failed[:_NAMED]) + more
