"""A publisher whose writes are noted as they begin."""

import asyncio
from collections.abc import Callable

from authority.publishers.interface import Publisher, PublishResult, TargetContents
from tidemark.verify import VerifiedBundle


class TimedPublisher:
    """Implements ``Publisher`` and passes everything on.

    ``began`` is told the digest of each statement that is about to be compared with the targets, and written.
    """

    def __init__(self, publisher: Publisher, began: Callable[[str], None]) -> None:
        self.name = publisher.name
        self._publisher = publisher
        self._began = began

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        """Note the time, then publish."""
        self._began(bundle.digest)
        return await self._publisher.publish(bundle)

    def watch(self, changed: asyncio.Event) -> None:
        """Set ``changed`` whenever a target may have changed."""
        self._publisher.watch(changed)

    async def read(self) -> tuple[TargetContents, ...]:
        """What the targets show now."""
        return await self._publisher.read()
