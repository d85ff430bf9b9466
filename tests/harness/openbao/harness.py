"""An authority in virtual time on a real OpenBao with its CAs, statement key and journal.

Virtual time lies some hours back: OpenBao signs certificates that have expired by its clock, but none that begin later.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from authority.issuer.openbao import OpenBaoIssuer
from authority.journal.openbao import OpenBaoJournal
from authority.openbao.login import Json, OpenBaoAccess
from authority.pki.keystore import KeyType
from authority.signer.openbao import open_transit_signer
from tests.harness import virtual_time
from tests.harness.authority.harness import AuthorityHarness
from tests.harness.authority.journal_builder import DOMAIN, PLAYGROUND
from tests.harness.openbao.server import OpenBaoNamespace, OpenBaoServer, StruckClient

HOURS_BACK = 6
RECEIPT_SECONDS = 0.1


def some_epoch() -> int:
    """An epoch of the playground's clock, some hours ago."""
    return PLAYGROUND.clock.epoch_at(int(time.time()) - HOURS_BACK * 3600)


@asynccontextmanager
async def set_up_namespace(openbao: OpenBaoServer, now: int) -> AsyncIterator[OpenBaoNamespace]:
    """On a virtual loop: a namespace that ``init --openbao`` has set up at ``now`` (Unix seconds)."""
    with virtual_time.from_outside():
        space = await OpenBaoNamespace.create(openbao)
        await space.set_up(now, tolerance=PLAYGROUND.tolerance_seconds)
    async with space.client:
        yield space


class VirtualClient(StruckClient):
    """Time stands while an answer is awaited, and leaves begin by ours: OpenBao counts that from its own now."""

    harness: "OpenBaoHarness | None" = None

    async def write(self, path: str, body: Json, *, repeatable: bool = True) -> Json:
        if self.harness is not None and "/sign/" in path and path.startswith("nats_int/"):
            with virtual_time.from_outside():
                await self.harness.backdate_leaves()
        if self.harness is not None and "/journal/" in path:
            await asyncio.sleep(self.harness.stall_seconds)
        return await super().write(path, body, repeatable=repeatable)

    async def _request(
        self, method: str, path: str, body: Json | None = None, *, repeatable: bool = True
    ) -> Json | None:
        with virtual_time.from_outside():
            return await super()._request(method, path, body, repeatable=repeatable)


@dataclass
class OpenBaoHarness(AuthorityHarness):
    """``start`` in place of ``boot``; everything is in the namespace ``space``.

    ``stall_seconds`` is how long the process stands still before each record that it appends.
    """

    space: OpenBaoNamespace = field(kw_only=True)
    stall_seconds: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.client: VirtualClient | None = None
        self._role: Json = {}

    def access(self) -> OpenBaoAccess:
        """The client with the least policy."""
        assert self.space.login is not None
        return self.space.access(self.space.login)

    async def start(self) -> None:
        """Start an authority whose only knowledge is in OpenBao."""
        await self.close()
        await self.start_beside()

    async def start_beside(self) -> None:
        """The same, beside one that was deposed and still has its client."""
        self.client = VirtualClient(self.access(), self.effects)
        self.client.harness = self
        layout, tolerance = self.space.layout, self.timing.tolerance_seconds
        issuer = OpenBaoIssuer(
            self.client, layout, KeyType.EC_P256, tolerance_seconds=tolerance, clock=time.time
        )  # compares OpenBao's clock with the real one
        signer = await open_transit_signer(self.client, layout.transit, layout.key, DOMAIN)
        journal = OpenBaoJournal(self.client, layout.kv, layout.prefix)
        self.boot_on(journal, issuer, signer, await signer.verifiers())
        self.target.on_write = self.leaf.on_write = self.receive

    def receive(self, _: object) -> None:
        """Receipts arrive a moment after anything was written."""
        asyncio.get_running_loop().call_later(RECEIPT_SECONDS, self.rotation.wake)

    async def backdate_leaves(self) -> None:
        """Have leaves begin a tolerance before our now."""
        role, ago = f"{self.space.layout.intermediate}/roles/tidemark", int(time.time()) - self.now()
        self._role = self._role or await self.space.client.read(role) or {}
        body = self._role | {"not_before_duration": f"{ago + self.timing.tolerance_seconds}s"}
        await self.space.client.write(role, body)

    async def close(self) -> None:
        """Let go of the client of an authority that is dead or was stopped."""
        if self.client is not None:
            async with self.client:
                self.client = None
