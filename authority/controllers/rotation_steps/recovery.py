"""Recovery at a start: the journal continues above the highest statement that a target shows."""

import asyncio
from collections.abc import Callable, Sequence

from authority.controllers.context import ControllerContext
from authority.journal.record_types import StatementRecord
from authority.publishers.interface import Publisher, PublishError
from authority.rotation.actions import Step
from authority.rotation.events import StepFailed
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, VerifiedBundle, reopen

READ_SECONDS = 5.0
"""How long a publisher may take to read its targets before the recovery is done without them."""

OnFault = Callable[[str, str], None]
"""Called with a publisher's name, and why what its target shows does not count."""


class Recovery:
    """Adopts the highest statement that a target shows, where the journal lacks it."""

    def __init__(self, context: ControllerContext, publishers: Sequence[Publisher]) -> None:
        self._context = context
        self._publishers = publishers
        self.is_done = False
        """Whether the targets were read since this replica leads, or since a target was found ahead of the journal."""

    async def run(self) -> None:
        """Read the targets, and append the highest statement that they show. Raises JournalError."""
        highest = await highest_shown(self._publishers, self._context.trust, self._report)
        history = await self._context.journal.read()
        if highest is not None and highest.sequence >= history.next_sequence:
            # The CAs that the statement adds are trusted until they expire. Another authority may hold their keys, so
            # the record names no CA of ours, and we never sign with them.
            await self._context.journal.append(history, StatementRecord(self._context.now(), "", highest.bundle))
        self.is_done = True

    def _report(self, publisher: str, error: str) -> None:
        self._context.observe(StepFailed(self._context.now(), Step.RESUME, publisher, error, 0.0))


async def highest_shown(publishers: Sequence[Publisher], trust: Trust, on_fault: OnFault) -> VerifiedBundle | None:
    """The validly signed bundle with the highest sequence, expired or not; None where no target shows one."""
    found = await asyncio.gather(*(_verified(publisher, trust, on_fault) for publisher in publishers))
    return max((bundle for bundles in found for bundle in bundles), key=lambda bundle: bundle.sequence, default=None)


async def _verified(publisher: Publisher, trust: Trust, on_fault: OnFault) -> list[VerifiedBundle]:
    try:
        async with asyncio.timeout(READ_SECONDS):
            targets = await publisher.read()
    except TimeoutError:
        on_fault(publisher.name, f"expected an answer within {READ_SECONDS} s, found none")
        return []
    except PublishError as error:
        on_fault(publisher.name, str(error))
        return []
    verified = []
    for target in targets:
        if target.error:
            on_fault(publisher.name, target.error)
        try:
            verified += [reopen(target.bundle, trust)] if target.bundle else []
        except BundleRejected as error:
            on_fault(publisher.name, f"{target.target}: {error}")
    return verified
