"""One issuer for several controllers: one call at a time, as ``Issuer`` demands of its callers."""

import asyncio
from collections.abc import Sequence

from authority.issuer.interface import CaRequest, IssuedLeaf, Issuer, IssuerHoldings, LeafRequest
from tidemark.certificates import Certificate


class SerializedIssuer:
    """Implements ``Issuer`` and passes every call on, one at a time."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._turn = asyncio.Lock()

    async def roots(self) -> tuple[Certificate, ...]:
        """The roots above the CAs, newest first."""
        async with self._turn:
            return await self._issuer.roots()

    async def issue_ca(self, request: CaRequest) -> Certificate:
        """Make the CA, or return the one already made under this name."""
        async with self._turn:
            return await self._issuer.issue_ca(request)

    async def activate(self, ca_id: str) -> None:
        """Make this CA the one that signs leaves for others."""
        async with self._turn:
            await self._issuer.activate(ca_id)

    async def issue_leaf(self, ca_id: str, request: LeafRequest) -> IssuedLeaf:
        """Sign a leaf with the CA of this name."""
        async with self._turn:
            return await self._issuer.issue_leaf(ca_id, request)

    async def holdings(self) -> IssuerHoldings:
        """What is there now."""
        async with self._turn:
            return await self._issuer.holdings()

    async def delete(self, ca_ids: Sequence[str]) -> None:
        """Delete CAs and their keys."""
        async with self._turn:
            await self._issuer.delete(ca_ids)
