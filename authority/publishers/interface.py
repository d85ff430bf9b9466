"""The port through which bundles reach their targets: directories, JetStream, Kubernetes."""

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
    """What publishing came to at every target of a publisher: a failure at one hides nothing of another."""

    written: tuple[str, ...] = ()
    """Names of the targets that were written."""
    newer: tuple[str, ...] = ()
    """Names of the targets that show a validly signed higher sequence."""
    failed: tuple[str, ...] = ()
    """One sentence for each target that failed, which names the target."""

    @property
    def outcome(self) -> PublishOutcome:
        """``NEWER`` where a target shows a newer bundle, else ``WRITTEN`` where one was written, else ``UNCHANGED``."""
        if self.newer:
            return PublishOutcome.NEWER
        return PublishOutcome.WRITTEN if self.written else PublishOutcome.UNCHANGED


@dataclass(frozen=True, slots=True)
class TargetContents:
    """What one target shows now."""

    target: str
    bundle: Bundle | None
    """Untrusted; None where the target shows nothing, or nothing that reads as a bundle."""
    error: str = ""
    """Why the target could not be read, "" where it could."""


class Publisher(Protocol):
    """Brings bundles to one kind of target; knows nothing of the others.

    ``publish`` compares with the target itself, never with what the publisher remembers, writes each target as a whole
    (no reader sees half), and may be repeated. A target that fails keeps no other from being written or read. The
    caller retries.
    """

    name: str
    """For metrics, logs and status: ``directory``, ``jetstream``, ``kubernetes``."""

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        """Make every target show this bundle. Raises PublishError: nothing is known of any of them."""

    async def read(self) -> tuple[TargetContents, ...]:
        """What every target shows now. Raises PublishError: nothing is known of any of them."""

    def watch(self, changed: asyncio.Event) -> None:
        """Set ``changed`` whenever a target may have changed, or is new. The caller keeps a reference to the event.

        A kind of target that announces no changes never sets the event: the caller reads now and then in any case.
        """


async def side_by_side(work: Mapping[str, Awaitable[PublishOutcome]]) -> PublishResult:
    """Do the work at every target, by the target's name, at the same time. Raises any error but a PublishError."""
    results = dict(zip(work, await asyncio.gather(*work.values(), return_exceptions=True), strict=True))
    for result in results.values():
        if isinstance(result, BaseException) and not isinstance(result, PublishError):
            raise result
    return PublishResult(
        written=tuple(target for target, result in results.items() if result is PublishOutcome.WRITTEN),
        newer=tuple(target for target, result in results.items() if result is PublishOutcome.NEWER),
        failed=tuple(str(result) for result in results.values() if isinstance(result, PublishError)),
    )
