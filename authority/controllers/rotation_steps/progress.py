"""Reports long-running states: holds, withdrawals, and the rollout of a new statement.

Nothing is decided here. Each state is reported when it begins or changes its kind. A change of the agents that are
waited for is reported at most once a heartbeat.
"""

import asyncio

from authority.controllers.context import ControllerContext
from authority.controllers.rotation_steps.statements import CommittedStatement
from authority.fleet.view import FleetState
from authority.rotation.actions import Hold
from authority.rotation.events import FleetProven, GateHeld, WithdrawalStageReached
from authority.rotation.snapshot import Snapshot
from authority.rotation.withdrawal import WithdrawalProgress, progress
from tidemark.receipt import PodClass


class ProgressReporter:
    """Remembers what was reported last."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context
        self.hold: Hold | None = None
        """What keeps a CA from being activated in time, as the plan saw it last."""

        self.committed: CommittedStatement | None = None
        """The newest statement that this replica committed, until the fleet has proven it."""

        self._held: GateHeld | None = None
        self._withdrawing: dict[str, WithdrawalStageReached] = {}

    def forget(self) -> None:
        """Another replica may have led meanwhile: every state is reported anew."""
        self.hold = self.committed = self._held = None
        self._withdrawing.clear()

    def report_waiting(self, snapshot: Snapshot, hold: Hold | None) -> None:
        """Report that nothing can be done at present; ``hold`` keeps a CA from being activated, if anything does."""
        self.hold = hold
        self._report_hold(hold, snapshot.now)
        self._report_withdrawals(snapshot)

    def report_rollout(self, snapshot: Snapshot) -> None:
        """Report that the fleet has proven our newest statement, once it has."""
        newest = snapshot.history.newest
        if self.committed is None or newest is None or newest.digest != self.committed.digest:
            return
        # Required agents alone, as for the gate: an application that never reports would keep the measure open.
        required = [a for a in snapshot.fleet.agents if a.pod_class is PodClass.REQUIRED and a.expected]
        if required and all(agent.state is FleetState.PROVEN for agent in required):
            seconds = asyncio.get_running_loop().time() - self.committed.seconds
            self.committed = None
            self._context.observe(FleetProven(snapshot.now, newest.statement.sequence, seconds))

    def _report_hold(self, hold: Hold | None, now: int) -> None:
        last, self._held = self._held, None
        if hold is None:
            return
        event = GateHeld(now, hold.ca.epoch, hold.ca.sha256, hold.since, hold.until, hold.closed, hold.waiting)
        is_another = last is None or (event.ca, event.closed) != (last.ca, last.closed)
        is_due = last is not None and event.waiting != last.waiting and now >= last.at + self._context.heartbeat
        self._held = event if is_another or is_due else last
        if self._held is event:
            self._context.observe(event)

    def _report_withdrawals(self, snapshot: Snapshot) -> None:
        reported, self._withdrawing = self._withdrawing, {}
        for each in progress(snapshot):
            last, event = reported.get(each.ca.sha256), _event_of(each, snapshot.now)
            is_another = last is None or (event.stage, event.replacement) != (last.stage, last.replacement)
            is_due = (
                last is not None and event.waiting != last.waiting and snapshot.now >= last.at + self._context.heartbeat
            )
            self._withdrawing[each.ca.sha256] = event if last is None or is_another or is_due else last
            if is_another or is_due:
                self._context.observe(event)


def _event_of(each: WithdrawalProgress, now: int) -> WithdrawalStageReached:
    replacement = each.replacement.sha256 if each.replacement else ""
    return WithdrawalStageReached(now, each.ca.epoch, each.ca.sha256, each.stage, replacement, each.waiting, each.until)
