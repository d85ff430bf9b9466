"""Copies of bundles in OpenBao's KV v2, named by epoch, for people who look for the bundle of an epoch.

``epoch-<N>-<sequence>`` holds ``ca.crt`` and ``bundle.note`` of one statement (docs/openbao.md, "Reading the journal").
No program reads the copies. A copy is written after its statement's record; whoever reads the journal next writes the
copies that are missing after a crash.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from authority.journal.interface import unreadable_bundle
from authority.journal.record_types import Entry, StatementRecord
from authority.openbao.errors import CasConflict
from authority.openbao.kv import KvSecrets
from authority.openbao.login import Json
from tidemark.bundle import CA_FILE, NOTE_FILE, StatementError

_COPY = re.compile(r"epoch-\d+-\d+")


class BundleCopies:
    """The copies below one journal's prefix. Methods raise OpenBaoError, and JournalError for an unreadable bundle."""

    def __init__(self, secrets: KvSecrets) -> None:
        self._secrets = secrets

    async def write(self, entries: Sequence[Entry]) -> None:
        """Write the copy of each statement among ``entries``, where none stands."""
        for name, bundle in _copies_of(entries).items():
            with suppress(CasConflict):  # the copy stands
                await self._secrets.create(name, bundle)

    async def complete(self, entries: Iterable[Entry]) -> None:
        """Write the copies that are missing."""
        standing = await self._standing()
        await self.write([entry for entry in entries if not standing & set(_copies_of([entry]))])

    async def prune(self, entries: Iterable[Entry]) -> None:
        """Delete the copies of statements that are not among ``entries``."""
        for name in sorted(await self._standing() - set(_copies_of(entries))):
            await self._secrets.delete(name)

    async def _standing(self) -> set[str]:
        return {name for name in await self._secrets.names() if _COPY.fullmatch(name)}


def _copies_of(entries: Iterable[Entry]) -> dict[str, Json]:
    """Name and content of each statement's copy. Raises JournalError."""
    copies = {}
    for entry in entries:
        if isinstance(entry.record, StatementRecord):
            bundle = entry.record.bundle
            try:
                statement, _ = bundle.unverified_statement()
            except StatementError as error:
                raise unreadable_bundle(entry.position, error) from None
            name = f"epoch-{statement.epoch}-{statement.sequence}"
            copies[name] = {CA_FILE: bundle.ca.decode(), NOTE_FILE: bundle.note.decode()}
    return copies
