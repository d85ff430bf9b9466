"""What the issuer holds, as it was last looked at; nothing of it is taken for granted, also where we did it ourselves.

A leader that was paused in the middle of a step may go on with it after another has taken over: make or delete a CA, or
tell the issuer to sign with an older one. So the issuer is looked at again for each statement, and once a heartbeat.
"""

import asyncio
from collections.abc import Sequence

from authority.controllers.context import ControllerContext
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import EpochCa, History
from authority.rotation.actions import Step
from authority.rotation.events import StepFailed


class IssuerInventory:
    """Of one issuer, for one sequencer."""

    def __init__(self, issuer: SerializedIssuer, surroundings: ControllerContext) -> None:
        self._issuer = issuer
        self._here = surroundings
        self._cas: dict[str, str] = {}
        self._active: str | None = None
        self._looked_at: float | None = None
        self._sequence = 0
        self._told: set[str] = set()

    @property
    def active(self) -> str | None:
        """The CA that signs for others, by its intent; None where that is not known."""
        return self._active

    def forget(self) -> None:
        """Nothing is known of what others did."""
        self._looked_at, self._active = None, None

    def is_due(self, history: History) -> bool:
        """Whether to look (again)."""
        if self._looked_at is None or self._sequence != history.next_sequence:
            return True
        return asyncio.get_running_loop().time() - self._looked_at >= self._here.heartbeat

    async def look(self, history: History) -> None:
        """Look, after ``history`` was read: whatever it names was made before. Raises IssuerError."""
        began = asyncio.get_running_loop().time()
        found = await self._issuer.holdings()
        self._cas = dict(found.cas)
        self._active = found.active if found.active is not None else self._active
        self._looked_at, self._sequence = began, history.next_sequence
        for ca in self.judge(history).cas:
            if ca.lost and ca.withdrawal is None and not ca.withdrawn and not ca.is_expired(self._here.now()):
                self._tell_lost(ca)

    def intents(self, history: History) -> frozenset[str] | None:
        """The CAs that are there, by intent; None where that is not known of this history's."""
        return frozenset(self._cas) if self._is_of(history) else None

    def judge(self, history: History) -> History:
        """The history, with the CAs that are lost, as far as that is known."""
        return history.held_by(self._cas) if self._is_of(history) else history

    def activated(self, intent: str) -> None:
        """The issuer was told to sign with this CA."""
        self._active = intent

    def deleted(self, intents: Sequence[str]) -> None:
        """The issuer was told to delete these CAs."""
        for intent in intents:
            self._cas.pop(intent, None)

    def _is_of(self, history: History) -> bool:
        return self._looked_at is not None and self._sequence == history.next_sequence

    def _tell_lost(self, ca: EpochCa) -> None:
        if ca.sha256 in self._told:
            return
        self._told.add(ca.sha256)
        error = (
            f"CA {ca.intent} ({ca.sha256[:16]}…): expected the issuer to hold its key, found none; it signs nothing "
            f"any more, and another is made for epoch {ca.epoch}"
        )
        self._here.observe(StepFailed(self._here.now(), Step.INSPECT, ca.intent, error, 0.0))
