"""Directories as targets, for the playground, tests and bare hosts: written as the kubelet writes a Secret mount."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from authority.issuer.interface import IssuedLeaf
from authority.publishers.compare import compare
from authority.publishers.interface import Brought, Outcome, PublishError, Shown
from authority.publishers.side_by_side import side_by_side
from authority.support import projected_directory
from authority.support.projected_directory import Content
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle
from tidemark.certificates import LeafRejected, parse_leaf
from tidemark.trust import Trust
from tidemark.verify import VerifiedBundle

_PUBLIC = 0o644

_KEY = 0o640
"""Of ``tls.key``: the group of the directory may read it, as in a Secret mount with ``fsGroup``. The workload seldom
runs as the authority's user, and the directory's owner says by its group who belongs to it."""


class DirectoryPublisher:
    """Implements ``Publisher``, for any number of directories."""

    name = "directory"

    def __init__(self, directories: Sequence[Path], trust: Trust, clock: Callable[[], float] = time.time) -> None:
        self._directories = tuple(directories)
        self._trust = trust
        self._clock = clock

    async def publish(self, bundle: VerifiedBundle) -> Brought:
        """Make every directory show this bundle."""
        return await side_by_side(
            {str(directory): asyncio.to_thread(self._publish_to, directory, bundle) for directory in self._directories}
        )

    async def shown(self) -> tuple[Shown, ...]:
        """What every directory shows now."""
        return await asyncio.to_thread(lambda: tuple(map(_shown, self._directories)))

    def watch(self, changed: asyncio.Event) -> None:
        """Nobody tells of a directory: it is looked at."""

    def _publish_to(self, directory: Path, bundle: VerifiedBundle) -> Outcome:
        files = {CA_FILE: Content(bundle.bundle.ca, _PUBLIC), NOTE_FILE: Content(bundle.bundle.note, _PUBLIC)}
        try:
            with projected_directory.locked(directory):
                outcome = compare(str(directory), _read_bundle(directory), bundle, self._trust)
                linked = all(projected_directory.is_linked(directory, name) for name in files)
                if outcome is Outcome.NEWER or (outcome is Outcome.UNCHANGED and linked):
                    return outcome
                projected_directory.switch(directory, files, int(self._clock()))
        except OSError as error:
            raise PublishError(f"{directory}: expected to write the bundle, found {error}") from None
        return Outcome.WRITTEN


class DirectoryLeafStore:
    """Implements ``LeafStore``, for one directory."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.name = str(directory)
        self._directory = directory
        self._clock = clock

    async def read(self) -> bytes | None:
        """``tls.crt`` as the directory shows it; None also where the key beside it is missing or another's."""
        return await asyncio.to_thread(self._read)

    async def write(self, leaf: IssuedLeaf) -> None:
        """Make the directory show this leaf."""
        await asyncio.to_thread(self._write, leaf)

    def _read(self) -> bytes | None:
        if not all(projected_directory.is_linked(self._directory, name) for name in (LEAF_FILE, KEY_FILE)):
            return None
        certificate, key = (_read_file(self._directory, name) for name in (LEAF_FILE, KEY_FILE))
        try:
            return parse_leaf(certificate or b"", key or b"").certificate_pem
        except LeafRejected:  # nothing that a workload could use, whatever it is
            return None

    def _write(self, leaf: IssuedLeaf) -> None:
        files = {LEAF_FILE: Content(leaf.certificate_pem, _PUBLIC), KEY_FILE: Content(leaf.key_pem, _KEY)}
        try:
            with projected_directory.locked(self._directory):
                projected_directory.switch(self._directory, files, int(self._clock()))
        except OSError as error:
            raise PublishError(f"{self._directory}: expected to write the leaf, found {error}") from None


def _shown(directory: Path) -> Shown:
    try:
        return Shown(str(directory), _read_bundle(directory))
    except PublishError as error:
        return Shown(str(directory), None, str(error))


def _read_bundle(directory: Path) -> Bundle | None:
    ca, note = (_read_file(directory, name) for name in (CA_FILE, NOTE_FILE))
    return Bundle(ca, note) if ca is not None and note is not None else None


def _read_file(directory: Path, name: str) -> bytes | None:
    try:
        return projected_directory.read(directory, name)
    except OSError as error:
        raise PublishError(f"{directory}: expected to read {name}, found {error}") from None
