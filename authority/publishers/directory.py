"""Directories as targets, for the playground, tests and bare hosts: written as the kubelet writes a Secret mount."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from authority.publishers.compare import compare
from authority.publishers.interface import PublishError, PublishOutcome, PublishResult, TargetContents, side_by_side
from authority.support import projected_directory
from authority.support.projected_directory import FileContent
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle
from tidemark.trust import Trust
from tidemark.verify import VerifiedBundle

PUBLIC_MODE = 0o644
"""Of files that every user may read."""


class DirectoryPublisher:
    """Implements ``Publisher``, for any number of directories."""

    name = "directory"

    def __init__(self, directories: Sequence[Path], trust: Trust, clock: Callable[[], float] = time.time) -> None:
        self._directories = tuple(directories)
        self._trust = trust
        self._clock = clock

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        """Make every directory show this bundle."""
        return await side_by_side(
            {str(directory): asyncio.to_thread(self._publish_to, directory, bundle) for directory in self._directories}
        )

    async def read(self) -> tuple[TargetContents, ...]:
        """What every directory shows now."""
        return await asyncio.to_thread(lambda: tuple(map(_contents, self._directories)))

    def watch(self, changed: asyncio.Event) -> None:
        """A directory announces no changes: the caller reads it now and then."""

    def _publish_to(self, directory: Path, bundle: VerifiedBundle) -> PublishOutcome:
        files = {
            CA_FILE: FileContent(bundle.bundle.ca, PUBLIC_MODE),
            NOTE_FILE: FileContent(bundle.bundle.note, PUBLIC_MODE),
        }
        try:
            with projected_directory.locked(directory):
                outcome = compare(str(directory), _read_bundle(directory), bundle, self._trust)
                linked = all(projected_directory.is_linked(directory, name) for name in files)
                if outcome is PublishOutcome.NEWER or (outcome is PublishOutcome.UNCHANGED and linked):
                    return outcome
                projected_directory.switch(directory, files, int(self._clock()))
        except OSError as error:
            raise PublishError(f"{directory}: expected to write the bundle, found {error}") from None
        return PublishOutcome.WRITTEN


def _contents(directory: Path) -> TargetContents:
    try:
        return TargetContents(str(directory), _read_bundle(directory))
    except PublishError as error:
        return TargetContents(str(directory), None, str(error))


def _read_bundle(directory: Path) -> Bundle | None:
    ca, note = (read_file(directory, name) for name in (CA_FILE, NOTE_FILE))
    return Bundle(ca, note) if ca is not None and note is not None else None


def read_file(directory: Path, name: str) -> bytes | None:
    """A file as the directory shows it; None where there is none. Raises PublishError."""
    try:
        return projected_directory.read(directory, name)
    except OSError as error:
        raise PublishError(f"{directory}: expected to read {name}, found {error}") from None
