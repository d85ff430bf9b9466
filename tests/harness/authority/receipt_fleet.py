"""Agents that send receipts for each statement of an authority."""

from tests.harness.authority.deployment import AGENTS, AuthorityDeployment, receipt
from tidemark.verify import Mark


class Fleet:
    """Reports that every agent has proven the bundle in its mount."""

    def __init__(self, deployment: AuthorityDeployment) -> None:
        self._deployment = deployment
        self._number = 0
        self.statements: dict[int, str] = {}

    async def report(self) -> None:
        """Send one receipt of each agent."""
        async with self._deployment.session(self._deployment.token("agent")) as session:
            for name in AGENTS:
                bundle = await self._deployment.bundle(name)
                assert self.statements.setdefault(bundle.sequence, bundle.digest) == bundle.digest
                self._number += 1
                sent = receipt(name, Mark(bundle.sequence, bundle.digest), self._deployment.leaf(name), self._number)
                async with session.post("/api/v1/receipts", data=sent.to_json()) as response:
                    response.raise_for_status()
