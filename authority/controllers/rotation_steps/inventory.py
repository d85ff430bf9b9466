"""What the issuer holds, as it was last read.

A leader that was paused in the middle of a step may finish the step after another replica has taken over: make or
delete a CA, or have the issuer sign with an older CA. So the issuer is read again for each statement, and once a
heartbeat.
"""

import asyncio
from collections.abc import Sequence

from authority.controllers.context import ControllerContext
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import EpochCa, History
from authority.rotation.actions import Step
from authority.rotation.events import StepFailed


class IssuerInventory:
    """The CAs of one issuer, for the rotation controller."""

    def __init__(self, issuer: SerializedIssuer, context: ControllerContext) -> None:
        self._issuer = issuer
        self._context = context
        self._cas: dict[str, str] = {}
        self._active: str | None = None
        self._read_at: float | None = None
        self._sequence = 0
        self._reported: set[str] = set()

    @property
    def active(self) -> str | None:
        """The CA that the issuer signs with for others, by its name; None where that is not known."""
        return self._active

    def forget(self) -> None:
        """Another replica may have led meanwhile: nothing that was read before counts."""
        self._read_at, self._active = None, None

    def is_due(self, history: History) -> bool:
        """Whether the issuer is to be read (again)."""
        if self._read_at is None or self._sequence != history.next_sequence:
            return True
        return asyncio.get_running_loop().time() - self._read_at >= self._context.heartbeat

    async def refresh(self, history: History) -> None:
        """Read the issuer, after ``history`` was read. Raises IssuerError.

        A CA that the history names was made before, so a CA that the issuer does not hold is lost.
        """
        began = asyncio.get_running_loop().time()
        found = await self._issuer.holdings()
        self._cas = dict(found.cas)
        # None: the issuer signs for this authority alone, and keeps no record. What we switched to last then counts.
        self._active = found.active if found.active is not None else self._active
        self._read_at, self._sequence = began, history.next_sequence
        for ca in self.mark_lost(history).cas:
            if ca.lost and ca.withdrawal is None and not ca.withdrawn and not ca.is_expired(self._context.now()):
                self._report_lost(ca)

    def ca_ids(self, history: History) -> frozenset[str] | None:
        """Names of the CAs that the issuer holds; None where it was not read since the history's newest statement."""
        return frozenset(self._cas) if self._is_of(history) else None

    def mark_lost(self, history: History) -> History:
        """The history with its lost CAs marked, where the issuer was read since the newest statement."""
        return history.held_by(self._cas) if self._is_of(history) else history

    def note_activated(self, ca_id: str) -> None:
        """The issuer signs with this CA from now on."""
        self._active = ca_id

    def note_deleted(self, ca_ids: Sequence[str]) -> None:
        """The issuer has deleted these CAs."""
        for ca_id in ca_ids:
            self._cas.pop(ca_id, None)

    def _is_of(self, history: History) -> bool:
        return self._read_at is not None and self._sequence == history.next_sequence

    def _report_lost(self, ca: EpochCa) -> None:
        if ca.sha256 in self._reported:
            return
        self._reported.add(ca.sha256)
        error = (
            f"CA {ca.ca_id} ({ca.sha256[:16]}…): expected the issuer to hold its key, found none; it signs nothing "
            f"any more, and another is made for epoch {ca.epoch}"
        )
        self._context.observe(StepFailed(self._context.now(), Step.INSPECT, ca.ca_id, error, 0.0))
