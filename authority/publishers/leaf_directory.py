"""A leaf store in a directory that switches as a mounted Secret does."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from authority.issuer.interface import IssuedLeaf
from authority.publishers.directory import PUBLIC_MODE, read_file
from authority.publishers.interface import PublishError
from authority.support import projected_directory
from authority.support.projected_directory import FileContent
from tidemark.bundle import KEY_FILE, LEAF_FILE
from tidemark.certificates import LeafRejected, parse_leaf

_KEY_MODE = 0o640
"""Of ``tls.key``: the directory's group may read the key, as in a Secret mount with ``fsGroup``.

The workload seldom runs as the authority's user; the directory's owner sets the group that may read."""


class DirectoryLeafStore:
    """Implements ``LeafStore``, for one directory."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.name = str(directory)
        self._directory = directory
        self._clock = clock

    async def read(self) -> bytes | None:
        """``tls.crt`` as the directory shows it; None also where the key beside it is missing or of another leaf."""
        return await asyncio.to_thread(self._read)

    async def write(self, leaf: IssuedLeaf) -> None:
        """Make the directory show this leaf."""
        await asyncio.to_thread(self._write, leaf)

    def _read(self) -> bytes | None:
        if not all(projected_directory.is_linked(self._directory, name) for name in (LEAF_FILE, KEY_FILE)):
            return None
        certificate, key = (read_file(self._directory, name) for name in (LEAF_FILE, KEY_FILE))
        try:
            return parse_leaf(certificate or b"", key or b"").certificate_pem
        except LeafRejected:  # no workload could use it: as good as none
            return None

    def _write(self, leaf: IssuedLeaf) -> None:
        files = {
            LEAF_FILE: FileContent(leaf.certificate_pem, PUBLIC_MODE),
            KEY_FILE: FileContent(leaf.key_pem, _KEY_MODE),
        }
        try:
            with projected_directory.locked(self._directory):
                projected_directory.switch(self._directory, files, int(self._clock()))
        except OSError as error:
            raise PublishError(f"{self._directory}: expected to write the leaf, found {error}") from None
