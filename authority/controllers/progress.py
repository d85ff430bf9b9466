"""What goes on for a while and is told of: a hold, each withdrawal, a fleet on its way to a new statement.

Nothing is decided here. Each is told once when it begins or is about something else, and once a heartbeat at most where
only those change who are waited for.
"""

import asyncio

from authority.controllers.context import ControllerContext
from authority.controllers.statements import CommittedStatement
from authority.fleet.view import FleetState
from authority.rotation.actions import Hold
from authority.rotation.events import FleetProven, GateHeld, WithdrawalStageReached
from authority.rotation.snapshot import Scene
from authority.rotation.withdrawal import WithdrawalProgress, progress
from tidemark.receipt import PodClass


class ProgressReporter:
    """Remembers what was told last. ``committed`` is the statement of ours that the fleet has not proven yet."""

    def __init__(self, surroundings: ControllerContext) -> None:
        self._here = surroundings
        self.hold: Hold | None = None
        self.committed: CommittedStatement | None = None
        self._held: GateHeld | None = None
        self._withdrawing: dict[str, WithdrawalStageReached] = {}

    def forget(self) -> None:
        """Another replica may have led meanwhile: everything is told anew."""
        self.hold = self.committed = self._held = None
        self._withdrawing.clear()

    def waits(self, scene: Scene, hold: Hold | None) -> None:
        """There is nothing to do at present, and ``hold`` is what keeps a CA from being activated."""
        self.hold = hold
        self._tell_hold(hold, scene.now)
        self._tell_withdrawals(scene)

    def proven(self, scene: Scene) -> None:
        """Tell of a fleet that has proven our newest statement."""
        newest = scene.history.newest
        if self.committed is None or newest is None or newest.digest != self.committed.digest:
            return
        required = [a for a in scene.fleet.agents if a.pod_class is PodClass.REQUIRED and a.expected]
        if required and all(agent.state is FleetState.PROVEN for agent in required):
            seconds = asyncio.get_running_loop().time() - self.committed.seconds
            self.committed = None
            self._here.observe(FleetProven(scene.now, newest.statement.sequence, seconds))

    def _tell_hold(self, hold: Hold | None, now: int) -> None:
        last, self._held = self._held, None
        if hold is None:
            return
        event = GateHeld(now, hold.ca.epoch, hold.ca.sha256, hold.since, hold.until, hold.closed, hold.waiting)
        is_another = last is None or (event.ca, event.closed) != (last.ca, last.closed)
        is_due = last is not None and event.waiting != last.waiting and now >= last.at + self._here.heartbeat
        self._held = event if is_another or is_due else last
        if self._held is event:
            self._here.observe(event)

    def _tell_withdrawals(self, scene: Scene) -> None:
        last, self._withdrawing = self._withdrawing, {}
        for each in progress(scene):
            told = last.get(each.ca.sha256)
            event = _withdrawing(each, scene.now)
            is_another = told is None or (event.stage, event.replacement) != (told.stage, told.replacement)
            is_due = told is not None and event.waiting != told.waiting and scene.now >= told.at + self._here.heartbeat
            self._withdrawing[each.ca.sha256] = event if told is None or is_another or is_due else told
            if is_another or is_due:
                self._here.observe(event)


def _withdrawing(each: WithdrawalProgress, now: int) -> WithdrawalStageReached:
    replacement = each.replacement.sha256 if each.replacement else ""
    return WithdrawalStageReached(now, each.ca.epoch, each.ca.sha256, each.stage, replacement, each.waiting, each.until)
