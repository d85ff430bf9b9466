"""What operators ask of the rotation; the rotation controller runs each command between two actions of the plan."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from authority.controllers import leaf_requests
from authority.controllers.command_queue import CommandQueue
from authority.controllers.context import ControllerContext
from authority.controllers.leaf_requests import LeafOrder, ManualLeaf
from authority.controllers.rotation_steps.actions import append_withdrawal
from authority.controllers.rotation_steps.progress import ProgressReporter
from authority.controllers.rotation_steps.statements import StatementMaker
from authority.controllers.rotation_steps.step_failures import STEP_ERRORS
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import EpochCa
from authority.journal.record_types import OverrideRecord, WithdrawalRecord
from authority.rotation.events import GateOverridden
from authority.rotation.operator_requests import RotationRefused, WithdrawalRequest, ca_to_withdraw, force
from authority.rotation.plan import awaited
from authority.rotation.snapshot import Snapshot
from tidemark.bundle import Statement

T = TypeVar("T")


class OperatorCommands:
    """Queues commands, and waits for their results.

    Every command raises RotationRefused where it is not possible now, and TimeoutError where it takes too long; the
    message then says whether the command may still be done.
    """

    def __init__(
        self,
        context: ControllerContext,
        issuer: SerializedIssuer,
        statements: StatementMaker,
        progress: ProgressReporter,
        wake: Callable[[], None],
    ) -> None:
        self._context = context
        self._issuer = issuer
        self._statements = statements
        self._progress = progress
        self._wake = wake
        self._queue = CommandQueue[Snapshot](STEP_ERRORS, _refusal)

    @property
    def are_waiting(self) -> bool:
        """Whether a command is queued."""
        return bool(self._queue)

    async def run_next(self, snapshot: Snapshot) -> None:
        """Run the oldest queued command; for the rotation controller."""
        await self._queue.run_next(snapshot)

    def refuse_all(self, reason: str) -> None:
        """Refuse every queued command; for the rotation controller, when it stops."""
        self._queue.refuse_all(reason)

    async def rotate(self, who: str, reason: str) -> Statement:
        """Force a rotation: a CA of its own, activated as soon as its gate opens; returns the statement that adds it.

        Raises:
            RotationRefused: it is not possible now; nothing was published.
        """

        async def run(snapshot: Snapshot) -> Statement:
            roots = await self._statements.roots()
            # Decided at the present instant: OpenBao may have taken its time, and the next epoch may have begun.
            present = replace(snapshot, now=self._context.now())
            committed = await self._statements.prepare(snapshot.history, force(present, len(roots)), who, reason)
            self._progress.committed = committed
            return committed.statement

        return await self._submit(run)

    async def override(self, who: str, reason: str) -> EpochCa:
        """Open the gate of the newest CA that waits for it, and record the reason; returns that CA.

        Raises:
            RotationRefused: no CA waits, or the override could not be recorded.
        """

        async def run(snapshot: Snapshot) -> EpochCa:
            waiting = awaited(snapshot)
            if not waiting:
                raise RotationRefused("override: expected a CA that waits for its gate, found none")
            now, ca = self._context.now(), waiting[-1]
            await self._context.journal.append(snapshot.history, OverrideRecord(now, ca.sha256, who, reason))
            self._context.observe(GateOverridden(now, ca.epoch, ca.sha256, who, reason))
            return ca

        return await self._submit(run)

    async def withdraw(self, who: str, reason: str, request: WithdrawalRequest) -> EpochCa:
        """Record that a CA is to be taken out of use; the plan does the rest. Returns that CA.

        Raises:
            RotationRefused: there is no such CA, or the withdrawal could not be recorded.
        """

        async def run(snapshot: Snapshot) -> EpochCa:
            ca = ca_to_withdraw(snapshot.history, request, snapshot.now)
            record = WithdrawalRecord(
                self._context.now(),
                ca.sha256,
                request.cause,
                request.urgent,
                automatic=False,
                who=who,
                reason=reason,
            )
            await append_withdrawal(self._context, snapshot.history, record, ca)
            return ca

        return await self._submit(run)

    async def issue_leaf(self, order: LeafOrder) -> ManualLeaf:
        """Sign a leaf that no target shows, and record the order.

        Raises:
            RotationRefused: no CA signs, or the leaf could not be signed or recorded; no leaf is handed out.
        """
        return await self._submit(
            lambda snapshot: leaf_requests.issue(self._context, self._issuer, snapshot.history, order)
        )

    async def _submit(self, run: Callable[[Snapshot], Awaitable[T]]) -> T:
        self._wake()
        return await self._queue.submit(run)


def _refusal(error: Exception | str) -> RotationRefused:
    return error if isinstance(error, RotationRefused) else RotationRefused(f"{error}; try again")
