"""Carries out what the plan asks for: each action is one change of the journal or of the issuer."""

from authority.controllers.context import ControllerContext
from authority.controllers.rotation_steps.inventory import IssuerInventory
from authority.controllers.rotation_steps.progress import ProgressReporter
from authority.controllers.rotation_steps.statements import StatementMaker
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import EpochCa, History
from authority.journal.record_types import NAMED, ActivationRecord, WithdrawalRecord
from authority.rotation.actions import Activate, Compact, Prepare, RemoveAnchors, Retire, SwitchSigner, Withdraw, Work
from authority.rotation.events import Activated, Retired, WithdrawalRequested
from tidemark.bundle import Cause


class ActionExecutor:
    """Carries out one action at a time. Everything that decides is in the journal before anything outside shows it."""

    def __init__(
        self,
        context: ControllerContext,
        issuer: SerializedIssuer,
        inventory: IssuerInventory,
        statements: StatementMaker,
        progress: ProgressReporter,
    ) -> None:
        self._context = context
        self._issuer = issuer
        self._inventory = inventory
        self._statements = statements
        self._progress = progress

    async def carry_out(self, work: Work, history: History) -> None:
        """Do what the plan decided on ``history``. Raises STEP_ERRORS."""
        self._context.check_clock()
        match work:
            case Prepare():
                self._progress.committed = await self._statements.prepare(history, work)
            case RemoveAnchors():
                self._progress.committed = await self._statements.remove_anchors(history, work)
            case Withdraw():
                await self._withdraw(work, history)
            case Activate():
                await self._activate(work, history)
            case SwitchSigner():
                await self._switch(work, history)
            case Retire():
                await self._retire(work, history)
            case Compact():
                await self._context.journal.compact(history, work.keep, work.through)

    async def _withdraw(self, work: Withdraw, history: History) -> None:
        record = WithdrawalRecord(
            self._context.now(),
            work.ca.sha256,
            Cause.ROLLBACK,
            urgent=False,
            automatic=True,
            who="",
            reason=work.reason,
        )
        await append_withdrawal(self._context, history, record, work.ca)

    async def _activate(self, work: Activate, history: History) -> None:
        now, ca, count = self._context.now(), work.ca, len(work.unproven)
        record = ActivationRecord(now, ca.sha256, work.opening, work.unproven[:NAMED], work.skipped, count)
        await self._context.journal.append(history, record)
        self._context.observe(Activated(now, ca.epoch, ca.sha256, work.opening, work.unproven, work.skipped))

    async def _switch(self, work: SwitchSigner, history: History) -> None:
        # The journal's head is confirmed right before the issuer is changed: the issuer itself has no compare-and-set.
        await self._context.journal.confirm(history)
        await self._issuer.activate(work.ca.ca_id)
        self._inventory.note_activated(work.ca.ca_id)

    async def _retire(self, work: Retire, history: History) -> None:
        await self._context.journal.confirm(history)
        await self._issuer.delete(work.ca_ids)
        self._inventory.note_deleted(work.ca_ids)
        self._context.observe(Retired(self._context.now(), work.ca_ids, work.orphans))


async def append_withdrawal(
    context: ControllerContext, history: History, record: WithdrawalRecord, ca: EpochCa
) -> None:
    """Record a withdrawal that was decided on ``history``, and report it. Raises JournalError."""
    await context.journal.append(history, record)
    context.observe(
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
