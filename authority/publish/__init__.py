"""Where bundles go: the interface that directories, JetStream and Kubernetes stand behind."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from authority.issuer import IssuedLeaf
from tidemark.bundle import Bundle
from tidemark.verify import VerifiedBundle


class PublishError(Exception):
    """A target could not be read or written; the message names it, and what to do. Trying again is safe."""


class Outcome(StrEnum):
    """What publishing to one target came to."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"  # the target already shows exactly this
    NEWER = "newer"  # the target shows a validly signed higher sequence: nothing was written over it


@dataclass(frozen=True, slots=True)
class Shown:
    """What one target shows now, untrusted: None where it shows nothing or nothing that reads as a bundle."""

    target: str
    bundle: Bundle | None


class Publisher(Protocol):
    """Brings bundles to one kind of target; knows nothing of the others.

    ``publish`` decides by comparing with the target itself, never with what it remembers, writes each target as a
    whole (no reader sees half), and may be repeated. One target failing does not keep the others from being written;
    the error raised at the end then names each that failed.
    """

    name: str
    """For metrics, logs and status: ``directory``, ``jetstream``, ``kubernetes``."""

    async def publish(self, bundle: VerifiedBundle) -> Outcome:
        """Make every target show this bundle; ``WRITTEN`` if one or more had to be written. Raises PublishError."""

    async def shown(self) -> tuple[Shown, ...]:
        """What every target shows now. Raises PublishError."""

    def watch(self, changed: asyncio.Event) -> None:
        """Set ``changed`` whenever a target may show something else than it did, or came to be; the caller keeps it.

        Where nobody can tell, nothing is ever set: the caller looks again now and then in any case.
        """


class LeafStore(Protocol):
    """Where one workload's leaf lives: a directory or Secret with ``tls.crt`` and ``tls.key``.

    ``write`` switches both files as one and is durable when it returns; both methods may be repeated.
    """

    name: str
    """For metrics, logs and status: the target's path or namespace/name."""

    async def read(self) -> bytes | None:
        """``tls.crt`` as the target shows it now, untrusted; None where there is none. Raises PublishError."""

    async def write(self, leaf: IssuedLeaf) -> None:
        """Make the target show this leaf. Raises PublishError."""
