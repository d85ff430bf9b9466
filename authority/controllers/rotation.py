"""Sequencer: prepare, activate, withdraw, retire; asks the plan, does what it says, and asks again.

Everything that decides is in the journal before anything outside shows it, and nothing else is remembered: a crash
anywhere, then a restart, ends in the same state (docs/architecture.md, invariant 10).
Publishing runs beside it, task by task.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from authority.controllers import leaf_requests
from authority.controllers.command_queue import CommandQueue
from authority.controllers.context import ControllerContext
from authority.controllers.inventory import IssuerInventory
from authority.controllers.leaf_requests import LeafOrder, ManualLeaf
from authority.controllers.progress import ProgressReporter
from authority.controllers.publishing import PublishingController, TargetState
from authority.controllers.recovery import highest_shown
from authority.controllers.statements import StatementMaker
from authority.fleet.view import FleetView
from authority.issuer.interface import IssuerError
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import EpochCa, History
from authority.journal.interface import JournalConflict, JournalError
from authority.journal.record_types import NAMED, ActivationRecord, OverrideRecord, StatementRecord, WithdrawalRecord
from authority.publishers.interface import Publisher, PublishError
from authority.rotation.actions import (
    Activate,
    Compact,
    Hold,
    Prepare,
    RemoveAnchors,
    Retire,
    Step,
    SwitchSigner,
    Wait,
    Withdraw,
    Work,
)
from authority.rotation.compose import BundleFull
from authority.rotation.events import (
    Activated,
    AppendConflict,
    GateOverridden,
    Retired,
    StepFailed,
    WithdrawalRequested,
)
from authority.rotation.operator_requests import (
    RotationRefused,
    WithdrawalPreview,
    WithdrawalRequest,
    chosen,
    force,
    prospect,
)
from authority.rotation.plan import awaited, next_action
from authority.rotation.snapshot import A_THIRD, Scene, Snapshot
from authority.rotation.withdrawal import WithdrawalProgress, progress
from authority.signer.interface import SignerError, StatementSigner
from authority.support.backoff import Backoff
from authority.support.clock_skew import ClockDiffers
from tidemark.bundle import Cause, Statement, StatementError
from tidemark.verify import BundleRejected

T = TypeVar("T")

_BREATH = 9.0  # a turn's cost is followed by so many times that cost of rest, whoever wakes us
_LONGEST_BREATH = 1.0

StepError = (
    IssuerError,
    SignerError,
    JournalError,
    PublishError,
    BundleRejected,
    BundleFull,
    StatementError,
    RotationRefused,
    ClockDiffers,
)
"""What a step may fail with; anything else is a fault of the program and ends it."""


@dataclass(frozen=True, slots=True)
class RotationDependencies:
    """What a rotation acts upon. ``fleet`` shows the agents at an instant, with what they proved of the history.

    A CA is rolled back unasked where more than ``rollback_above`` of the required agents put it back.
    """

    issuer: SerializedIssuer
    signer: StatementSigner
    publishers: Sequence[Publisher]
    include_root: bool
    fleet: Callable[[History, int], FleetView]
    rollback_above: Fraction = A_THIRD


class RotationController:
    """Runs until it is cancelled, and may then run again; the only writer of the journal in this process."""

    def __init__(self, surroundings: ControllerContext, outside: RotationDependencies) -> None:
        self._here = surroundings
        self._outside = outside
        self._issuer = outside.issuer
        self._inventory = IssuerInventory(outside.issuer, surroundings)
        self._statements = StatementMaker(
            surroundings, outside.issuer, outside.signer, include_root=outside.include_root
        )
        self._publishing = PublishingController(outside.publishers, surroundings, self._look_again)
        self._pauses = Backoff[Step](surroundings.heartbeat)
        self._wake = asyncio.Event()
        self._requests = CommandQueue[History](StepError, _refusal)
        self._has_looked = False
        self._failures: dict[Step, StepFailed] = {}
        self._ongoing = ProgressReporter(surroundings)

    @property
    def history(self) -> History:
        """The journal as it was last read."""
        return self._here.timeline.history

    @property
    def hold(self) -> Hold | None:
        """What is held, and who is waited for, as the plan saw it last."""
        return self._ongoing.hold

    @property
    def active(self) -> str | None:
        """The CA that the issuer signs with for others, by its intent; None where that is not known."""
        return self._inventory.active

    @property
    def failures(self) -> dict[Step, StepFailed]:
        """Steps that failed when they were last tried."""
        return dict(self._failures)

    @property
    def targets(self) -> dict[str, TargetState]:
        """Publishers by name, with what came of their last look."""
        return self._publishing.states

    def wake(self) -> None:
        """Something changed that the plan rests on: a receipt, or the list of expected agents."""
        self._wake.set()

    async def rotate(self, who: str, reason: str) -> Statement:
        """Force a rotation: a CA of its own, activated as soon as its gate opens; returns its statement.

        Raises:
            RotationRefused: it cannot be had now; nothing was published.
        """

        async def carry_out(history: History) -> Statement:
            roots = await self._statements.roots()
            wanted = force(history, self._here.clock, len(roots), self._here.now())
            committed = await self._statements.prepare(history, wanted, who, reason)
            self._ongoing.committed = committed
            return committed.statement

        return await self._ask(carry_out)

    async def override(self, who: str, reason: str) -> EpochCa:
        """Open the gate of the newest CA that waits for it, and record who wanted it; returns that CA.

        Raises:
            RotationRefused: none is waiting, or it could not be recorded.
        """

        async def carry_out(history: History) -> EpochCa:
            now = self._here.now()
            waiting = awaited(history, self._here.clock, now)
            if not waiting:
                raise RotationRefused("override: expected a CA that waits for its gate, found none")
            ca = waiting[-1]
            await self._here.timeline.append(history, OverrideRecord(now, ca.sha256, who, reason))
            self._here.observe(GateOverridden(now, ca.epoch, ca.sha256, who, reason))
            return ca

        return await self._ask(carry_out)

    async def withdraw(self, who: str, reason: str, wanted: WithdrawalRequest) -> EpochCa:
        """Record that a CA is to be taken out of use; the plan does the rest. Returns that CA.

        Raises:
            RotationRefused: there is no such CA, or it could not be recorded.
        """

        async def carry_out(history: History) -> EpochCa:
            now = self._here.now()
            ca = chosen(history, wanted, now)
            record = WithdrawalRecord(
                now, ca.sha256, wanted.cause, wanted.urgent, automatic=False, who=who, reason=reason
            )
            await self._append_withdrawal(history, record, ca)
            return ca

        return await self._ask(carry_out)

    async def issue_leaf(self, order: LeafOrder) -> ManualLeaf:
        """Sign a leaf that no target shows, and record who wanted it.

        Raises:
            RotationRefused: nothing signs, or it could not be signed or recorded; nobody gets it.
        """
        return await self._ask(lambda history: leaf_requests.issue(self._here, self._issuer, history, order))

    def prospect(self, wanted: WithdrawalRequest) -> WithdrawalPreview:
        """What such a withdrawal would do, by what is known now. Raises RotationRefused."""
        return prospect(self._scene(self.history, self._here.now()), wanted, include_root=self._outside.include_root)

    def progress(self) -> tuple[WithdrawalProgress, ...]:
        """How far each withdrawal has come."""
        return progress(self._scene(self.history, self._here.now()))

    def _scene(self, history: History, now: int) -> Scene:
        fleet = self._outside.fleet(history, now)
        return Scene(history, fleet, self._here.clock, self._here.timing.tolerance_seconds, now)

    async def _append_withdrawal(self, history: History, record: WithdrawalRecord, ca: EpochCa) -> None:
        await self._here.timeline.append(history, record)
        self._here.observe(
            WithdrawalRequested(
                at=record.at,
                epoch=ca.epoch,
                ca=ca.sha256,
                cause=record.cause,
                urgent=record.urgent,
                who=record.who,
                reason=record.reason,
            )
        )

    async def run(self) -> None:
        """Rotate and publish until cancelled. Nothing is known of what others did since the last time."""
        self._here.timeline.doubt()
        self._inventory.forget()
        self._has_looked = False
        self._ongoing.forget()
        self._failures.clear()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publishing.run(), name="publishing")
                group.create_task(self._rotate_for_ever(), name="rotation")
        finally:
            self._requests.end("expected this replica to lead, found that it stops")

    async def _ask(self, carry_out: Callable[[History], Awaitable[T]]) -> T:
        """Have the sequencer carry something out between two actions of the plan.

        Raises RotationRefused; TimeoutError where it takes too long, which says whether it may be done yet.
        """
        self._wake.set()
        return await self._requests.ask(carry_out)

    async def _rotate_for_ever(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            self._wake.clear()
            seconds = await self._turn()
            if seconds is None:
                continue
            # Ten thousand receipts may each wake us: no more than a tenth of the time goes into asking the plan.
            await asyncio.sleep(min(_BREATH * (clock() - began), _LONGEST_BREATH))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    async def _turn(self) -> float | None:
        """Ask the plan once and do what it says; seconds to wait, or None where it is to be asked again at once."""
        step = Step.JOURNAL
        if self._pauses.backing_off() & {Step.JOURNAL, Step.RESUME}:  # without these there is nothing to go on with
            return self._pauses.seconds_left()
        try:
            history = await self._here.timeline.read()
            self._succeeded(Step.JOURNAL)
            step = Step.RESUME
            if not self._has_looked:
                await self._look()
                self._succeeded(Step.RESUME)
                return None
            step = Step.INSPECT
            if self._inventory.is_due(history) and step not in self._pauses.backing_off():
                await self._inventory.look(history)
                self._succeeded(Step.INSPECT)
            history, now = self._inventory.judge(history), self._here.now()
            scene = self._scene(history, now)
            world = Snapshot(
                history,
                scene.fleet,
                self._inventory.intents(history),
                self._inventory.active,
                self._here.timing.tolerance_seconds,
                self._outside.rollback_above,
            )
            action = next_action(world, self._here.clock, now, self._pauses.backing_off())
            if isinstance(action, Wait):
                self._ongoing.waits(scene, action.hold)
            self._ongoing.proven(scene)
            if self._requests and not isinstance(action, Activate | Prepare | RemoveAnchors):
                await self._requests.serve_next(history)
                return None
            if isinstance(action, Wait):
                return min(
                    action.until - now, self._here.heartbeat, self._pauses.seconds_left() or self._here.heartbeat
                )
            step = action.step
            await self._do(action, history)
            self._succeeded(step)
        except JournalConflict as error:
            self._here.observe(AppendConflict(self._here.now(), step, str(error)))
            self._pauses.failed(step)
        except StepError as error:
            self._failed(step, error)
        return None

    def _failed(self, step: Step, error: Exception) -> None:
        failure = StepFailed(self._here.now(), step, "", str(error), self._pauses.failed(step))
        self._failures[step] = failure
        self._here.observe(failure)

    def _succeeded(self, step: Step) -> None:
        self._pauses.succeeded(step)
        self._failures.pop(step, None)

    async def _do(self, work: Work, history: History) -> None:
        now, timeline, observe = self._here.now(), self._here.timeline, self._here.observe
        self._here.check_clock()
        match work:
            case Prepare():
                self._ongoing.committed = await self._statements.prepare(history, work)
            case Withdraw(ca=ca, reason=reason):
                asked = WithdrawalRecord(
                    now, ca.sha256, Cause.ROLLBACK, urgent=False, automatic=True, who="", reason=reason
                )
                await self._append_withdrawal(history, asked, ca)
            case RemoveAnchors():
                self._ongoing.committed = await self._statements.leave_out(history, work)
            case Activate(ca=ca):
                named, count = work.unproven[:NAMED], len(work.unproven)
                record = ActivationRecord(now, ca.sha256, work.opening, named, work.skipped, count)
                await timeline.append(history, record)
                observe(Activated(now, ca.epoch, ca.sha256, work.opening, work.unproven, work.skipped))
            case SwitchSigner(ca=ca):
                await timeline.confirm(history)
                await self._issuer.activate(ca.intent)
                self._inventory.activated(ca.intent)
            case Retire():
                await timeline.confirm(history)
                await self._issuer.delete(work.intents)
                self._inventory.deleted(work.intents)
                observe(Retired(now, work.intents, work.orphans))
            case Compact():
                await timeline.fold(history, work.keep, work.through)

    def _look_again(self) -> None:
        """A target shows a higher statement than the journal's: the journal lost some, or somebody else leads."""
        self._has_looked = False
        self._wake.set()

    async def _look(self) -> None:
        """At the start: go on above the highest statement that a target shows."""
        highest = await highest_shown(self._outside.publishers, self._here.trust, self._could_not_look)
        history = await self._here.timeline.read()
        if highest is not None and highest.sequence >= history.next_sequence:
            # The CAs that it adds are trusted until they expire. Their keys may be another's: we never sign with them.
            await self._here.timeline.append(history, StatementRecord(self._here.now(), "", highest.bundle))
        self._has_looked = True

    def _could_not_look(self, publisher: str, error: str) -> None:
        self._here.observe(StepFailed(self._here.now(), Step.RESUME, publisher, error, 0.0))


def _refusal(error: Exception | str) -> RotationRefused:
    return error if isinstance(error, RotationRefused) else RotationRefused(f"{error}; try again")
