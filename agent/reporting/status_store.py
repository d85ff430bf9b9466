"""The board: the agent's present status, which the cycle writes and health, receipts and people read."""

import asyncio
from dataclasses import replace
from typing import Any

from agent.reporting.status import AgentStatus


class StatusStore:
    """Holds one status; whoever waits is woken by each change. For one event loop."""

    def __init__(self, status: AgentStatus) -> None:
        self.status = status
        self._changed = asyncio.Event()

    def post(self, **changes: Any) -> None:
        """Replace fields of the status."""
        status = replace(self.status, **changes)
        if status != self.status:
            self.status = status
            self._changed.set()

    async def changed(self) -> AgentStatus:
        """Wait for a change since this was last asked, and return the status then. For one waiter."""
        await self._changed.wait()
        self._changed.clear()
        return self.status
