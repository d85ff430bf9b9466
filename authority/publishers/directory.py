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

_PUBLIC = 0o644


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

    async def shown(self) -> tuple[TargetContents, ...]:
        """What every directory shows now."""
        return await asyncio.to_thread(lambda: tuple(map(_shown, self._directories)))

    def watch(self, changed: asyncio.Event) -> None:
        """Nobody tells of a directory: it is looked at."""

    def _publish_to(self, directory: Path, bundle: VerifiedBundle) -> PublishOutcome:
        files = {CA_FILE: FileContent(bundle.bundle.ca, _PUBLIC), NOTE_FILE: FileContent(bundle.bundle.note, _PUBLIC)}
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


def _shown(directory: Path) -> TargetContents:
    try:
        return TargetContents(str(directory), _read_bundle(directory))
    except PublishError as error:
        return TargetContents(str(directory), None, str(error))


def _read_bundle(directory: Path) -> Bundle | None:
    ca, note = (_read_file(directory, name) for name in (CA_FILE, NOTE_FILE))
    return Bundle(ca, note) if ca is not None and note is not None else None


def _read_file(directory: Path, name: str) -> bytes | None:
    try:
        return projected_directory.read(directory, name)
    except OSError as error:
        raise PublishError(f"{directory}: expected to read {name}, found {error}") from None
