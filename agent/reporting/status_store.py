"""Holds the agent's present status, which the recorder updates and health, receipts and ``/status`` read."""

import asyncio
from dataclasses import replace
from typing import Any

from agent.reporting.status import AgentStatus


class StatusStore:
    """Holds one status and wakes its waiter at each change. For one event loop."""

    def __init__(self, status: AgentStatus) -> None:
        self.status = status
        self._changed = asyncio.Event()

    def update(self, **changes: Any) -> None:
        """Replace fields of the status."""
        status = replace(self.status, **changes)
        if status != self.status:
            self.status = status
            self._changed.set()

    async def changed(self) -> AgentStatus:
        """Wait for a change since the last call, and return the status at that time. For one waiter."""
        await self._changed.wait()
        self._changed.clear()
        return self.status
