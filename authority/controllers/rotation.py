"""Controller of the rotation: asks the plan for the next action, carries it out, and asks again.

Everything that decides is in the journal before anything outside shows it, and nothing else is remembered: a crash
anywhere, then a restart, ends in the same state (docs/architecture.md, invariant 10).
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction

from authority.controllers.context import ControllerContext
from authority.controllers.operator_commands import OperatorCommands
from authority.controllers.publishing import PublishingController, TargetState
from authority.controllers.rotation_steps.actions import ActionExecutor
from authority.controllers.rotation_steps.inventory import IssuerInventory
from authority.controllers.rotation_steps.progress import ProgressReporter
from authority.controllers.rotation_steps.recovery import Recovery
from authority.controllers.rotation_steps.statements import StatementMaker
from authority.controllers.rotation_steps.step_failures import StepAborted, StepFailures
from authority.fleet.view import FleetView
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import History
from authority.publishers.interface import Publisher
from authority.rotation.actions import Activate, Hold, Prepare, RemoveAnchors, Step, Wait
from authority.rotation.events import StepFailed
from authority.rotation.operator_requests import WithdrawalPreview, WithdrawalRequest, preview
from authority.rotation.plan import next_action
from authority.rotation.snapshot import A_THIRD, Snapshot
from authority.rotation.withdrawal import WithdrawalProgress, progress
from authority.signer.interface import StatementSigner

_IDLE_RATIO = 9.0
"""Sleep so many times the last turn's duration, so that planning takes at most a tenth of the time."""

_LONGEST_IDLE = 1.0
"""Seconds; the longest such sleep."""


@dataclass(frozen=True, slots=True)
class RotationDependencies:
    """What a rotation acts upon."""

    issuer: SerializedIssuer
    signer: StatementSigner
    publishers: Sequence[Publisher]

    include_root: bool
    """Whether bundles carry the roots."""

    fleet: Callable[[History, int], FleetView]
    """Returns the expected agents at an instant, with what they proved of the history."""

    rollback_above: Fraction = A_THIRD
    """A CA is rolled back unasked where more than this share of the required agents put its statement back."""

    on_publish: Callable[[str], None] = lambda digest: None
    """Called with a statement's digest right before the statement is compared with targets, and written to them."""


class RotationController:
    """Runs until it is cancelled, and may then run again; the only writer of the journal in this process.

    Ten fields: each is one part of a turn, and the turn puts them in order.
    """

    def __init__(self, context: ControllerContext, dependencies: RotationDependencies) -> None:
        self._context = context
        self._dependencies = dependencies
        self._inventory = IssuerInventory(dependencies.issuer, context)
        self._recovery = Recovery(context, dependencies.publishers)
        self._publishing = PublishingController(
            dependencies.publishers, context, self._recover_again, dependencies.on_publish
        )
        self._steps = StepFailures(context)
        self._progress = ProgressReporter(context)
        self._wake = asyncio.Event()
        issuer = dependencies.issuer
        statements = StatementMaker(context, issuer, dependencies.signer, include_root=dependencies.include_root)
        self._actions = ActionExecutor(context, issuer, self._inventory, statements, self._progress)
        self.commands = OperatorCommands(context, issuer, statements, self._progress, self.wake)

    @property
    def history(self) -> History:
        """The journal as it was last read."""
        return self._context.journal.history

    @property
    def hold(self) -> Hold | None:
        """The CA that is held, and the agents that are waited for, as the plan saw it last."""
        return self._progress.hold

    @property
    def active(self) -> str | None:
        """The CA that the issuer signs with for others, by its name there; None where that is not known."""
        return self._inventory.active

    @property
    def failures(self) -> dict[Step, StepFailed]:
        """Steps that failed when they were last tried."""
        return self._steps.failures

    @property
    def targets(self) -> dict[str, TargetState]:
        """By publisher's name, the result of its last run."""
        return self._publishing.states

    def wake(self) -> None:
        """Something changed that the plan rests on: a receipt, or the list of expected agents."""
        self._wake.set()

    def snapshot(self) -> Snapshot:
        """The state of the deployment now, by the journal as it was last read."""
        return self._snapshot_of(self.history)

    def preview(self, request: WithdrawalRequest) -> WithdrawalPreview:
        """What a withdrawal would do now. Raises RotationRefused."""
        return preview(self.snapshot(), request, include_root=self._dependencies.include_root)

    def withdrawals(self) -> tuple[WithdrawalProgress, ...]:
        """How far each withdrawal has come."""
        return progress(self.snapshot())

    async def run(self) -> None:
        """Rotate and publish until cancelled."""
        # Another replica may have led since the last run, so nothing that was known then counts.
        self._context.journal.invalidate()
        self._inventory.forget()
        self._recovery.is_done = False
        self._progress.forget()
        self._steps.forget()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publishing.run(), name="publishing")
                group.create_task(self._rotate(), name="rotation")
        finally:
            self.commands.refuse_all("expected this replica to lead, found that it stops")

    async def _rotate(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            # Cleared before the turn, never after: what wakes us during the turn may not be in its snapshot.
            self._wake.clear()
            seconds = await self._turn()
            if seconds is None:
                continue
            # Ten thousand receipts may each wake us, and each turn looks at every agent.
            await asyncio.sleep(min(_IDLE_RATIO * (clock() - began), _LONGEST_IDLE))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    async def _turn(self) -> float | None:
        """Ask the plan once; seconds to wait, or None where the plan is to be asked again at once."""
        if self._steps.backing_off() & {Step.JOURNAL, Step.RESUME}:
            return self._steps.seconds_left()  # without these two steps nothing can be decided
        try:
            return await self._plan_and_act()
        except StepAborted:
            return None  # the step is backing off: the plan is asked again, without it

    async def _plan_and_act(self) -> float | None:
        # 1. The journal: every decision below rests on this history, and is dropped where the journal moves on.
        with self._steps.attempt(Step.JOURNAL):
            history = await self._context.journal.read()

        # 2. Once after a start, the targets: a statement that the journal lost must not be numbered again.
        if not self._recovery.is_done:
            with self._steps.attempt(Step.RESUME):
                await self._recovery.run()
            return None

        # 3. The issuer, after the journal: a CA that the journal names was made before, so a missing one is lost.
        if self._inventory.is_due(history) and Step.INSPECT not in self._steps.backing_off():
            with self._steps.attempt(Step.INSPECT):
                await self._inventory.refresh(history)

        # 4. One snapshot, and the plan.
        snapshot = self._snapshot_of(self._inventory.mark_lost(history))
        action = next_action(snapshot, self._steps.backing_off())
        if isinstance(action, Wait):
            self._progress.report_waiting(snapshot, action.hold)
        self._progress.report_rollout(snapshot)

        # 5. A command waits only for actions that make, activate or remove a CA, so that the command is decided on
        #    their outcome. Everything else that is due waits for the command.
        if self.commands.are_waiting and not isinstance(action, Activate | Prepare | RemoveAnchors):
            await self.commands.run_next(snapshot)
            return None
        if isinstance(action, Wait):
            heartbeat = self._context.heartbeat
            return min(action.until - snapshot.now, heartbeat, self._steps.seconds_left() or heartbeat)
        with self._steps.attempt(action.step):
            await self._actions.carry_out(action, snapshot.history)
        return None

    def _snapshot_of(self, history: History) -> Snapshot:
        now = self._context.now()
        return Snapshot(
            history=history,
            fleet=self._dependencies.fleet(history, now),
            clock=self._context.clock,
            now=now,
            tolerance_seconds=self._context.timing.tolerance_seconds,
            ca_ids=self._inventory.ca_ids(history),
            active=self._inventory.active,
            rollback_above=self._dependencies.rollback_above,
        )

    def _recover_again(self) -> None:
        """A target shows a higher statement than the journal's: the journal lost records, or another replica leads."""
        self._recovery.is_done = False
        self._wake.set()
