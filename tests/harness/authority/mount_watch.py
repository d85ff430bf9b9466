"""Watches what an authority publishes to its mounts, as its agents see it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from authority.journal.directory import DirectoryJournal
from authority.journal.record_types import StatementRecord
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle
from tidemark.trust import Trust
from tidemark.verify import Known, Mark, reopen, verify


class MountWatch:
    """Reads every mount as an agent does, and verifies each new statement against the one before on the same mount."""

    def __init__(self, deployment: AuthorityDeployment, trust: Trust) -> None:
        self._mounts = [deployment.root / name / "bundle" for name in AGENTS]
        self._trust = trust
        self._known = dict.fromkeys(self._mounts, Known())
        self._shown: dict[Path, bytes] = {}
        self.digests: dict[int, set[str]] = {}

    async def run(self) -> None:
        while True:
            for mount in self._mounts:
                self._read(mount)
            await asyncio.sleep(0.005)

    def _read(self, mount: Path) -> None:
        try:
            generation = (mount / "..data").resolve(strict=True)
            bundle = Bundle((generation / CA_FILE).read_bytes(), (generation / NOTE_FILE).read_bytes())
        except FileNotFoundError:  # not there yet, or replaced between two reads
            return
        if bundle.note == self._shown.get(mount):
            return
        self._shown[mount] = bundle.note
        verified = verify(bundle, self._trust, self._known[mount], int(time.time()))
        self._known[mount] = Known(Mark(verified.sequence, verified.digest), verified)
        self.digests.setdefault(verified.sequence, set()).add(verified.digest)


@asynccontextmanager
async def watching(deployment: AuthorityDeployment) -> AsyncIterator[MountWatch]:
    """Watch the mounts inside the block; fails where a mount shows a bundle that an agent would refuse."""
    watch = MountWatch(deployment, await deployment.trust())
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        ended = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError), ended[0]
    await _check(deployment, watch)


async def _check(deployment: AuthorityDeployment, watch: MountWatch) -> None:
    """Sequences in the journal have no gaps, and each mount showed the statements of the journal alone."""
    entries = await DirectoryJournal(deployment.state / "journal").read()
    bundles = [entry.record.bundle for entry in entries if isinstance(entry.record, StatementRecord)]
    trust = await deployment.trust()
    digests = {one.sequence: {one.digest} for one in (reopen(bundle, trust) for bundle in bundles)}
    assert list(digests) == list(range(1, len(bundles) + 1))
    assert watch.digests.items() <= digests.items()
    assert max(watch.digests) == max(digests)
