"""Where bundles go: the interface that directories, JetStream and Kubernetes stand behind."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tidemark.bundle import Bundle
from tidemark.verify import VerifiedBundle


class PublishError(Exception):
    """A target could not be read or written; the message names it, and what to do. Trying again is safe."""


class PublishOutcome(StrEnum):
    """What publishing to a target came to."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"  # the target already shows exactly this
    NEWER = "newer"  # the target shows a validly signed higher sequence: nothing was written over it


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What publishing came to at all targets of a publisher; what was found at one hides nothing of another.

    ``written`` and ``newer`` name targets; ``failed`` are sentences, each of which names its own.
    """

    written: tuple[str, ...] = ()
    newer: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def outcome(self) -> PublishOutcome:
        """The most telling one of the targets that did not fail."""
        if self.newer:
            return PublishOutcome.NEWER
        return PublishOutcome.WRITTEN if self.written else PublishOutcome.UNCHANGED


@dataclass(frozen=True, slots=True)
class TargetContents:
    """What one target shows now, untrusted: None where it shows nothing or nothing that reads as a bundle.

    ``error`` says why it could not be read, "" where it could.
    """

    target: str
    bundle: Bundle | None
    error: str = ""


class Publisher(Protocol):
    """Brings bundles to one kind of target; knows nothing of the others.

    ``publish`` decides by comparing with the target itself, never with what it remembers, writes each target as a
    whole (no reader sees half), and may be repeated. One target failing keeps no other from being written or read.
    """

    name: str
    """For metrics, logs and status: ``directory``, ``jetstream``, ``kubernetes``."""

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        """Make every target show this bundle. Raises PublishError: nothing is known of any of them."""

    async def shown(self) -> tuple[TargetContents, ...]:
        """What every target shows now. Raises PublishError: nothing is known of any of them."""

    def watch(self, changed: asyncio.Event) -> None:
        """Set ``changed`` whenever a target may show something else than it did, or came to be; the caller keeps it.

        Where nobody can tell, nothing is ever set: the caller looks again now and then in any case.
        """


async def side_by_side(works: Mapping[str, Awaitable[PublishOutcome]]) -> PublishResult:
    """What came of the work at each target, by its name. Raises what is no PublishError."""
    results = dict(zip(works, await asyncio.gather(*works.values(), return_exceptions=True), strict=True))
    for result in results.values():
        if isinstance(result, BaseException) and not isinstance(result, PublishError):
            raise result
    return PublishResult(
        written=tuple(target for target, result in results.items() if result is PublishOutcome.WRITTEN),
        newer=tuple(target for target, result in results.items() if result is PublishOutcome.NEWER),
        failed=tuple(str(result) for result in results.values() if isinstance(result, PublishError)),
    )
