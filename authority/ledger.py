"""When the first receipts arrived that proved each statement, and each CA's leaf: what a rotation is timed by; pure.

Of the newest statements of this run of the authority only, and only of agents that are expected, so that it stays small
however many receipts come in. Instants are Unix seconds with fractions, by the authority's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tidemark.receipt import Receipt

STATEMENTS = 8
"""How many statements are remembered; with V = 4·D about two validities."""


@dataclass(frozen=True, slots=True)
class Proofs:
    """What is known of one statement: when its first write began, and by agent when its first proof arrived.

    ``leaf_proven`` counts receipts that prove a statement with this one's first CA, and a leaf that this CA signed.
    """

    published_at: float | None
    proven: Mapping[str, float]
    leaf_proven: Mapping[str, float]


NOTHING = Proofs(None, MappingProxyType({}), MappingProxyType({}))


@dataclass(slots=True)
class _Page:
    ca: str
    published_at: float | None = None
    proven: dict[str, float] = field(default_factory=dict)
    leaf_proven: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Ledger:
    """The pages of the newest statements, by digest."""

    _pages: dict[str, _Page] = field(default_factory=dict)
    _members: dict[str, frozenset[str]] = field(default_factory=dict)

    def open(self, digest: str, ca: str, members: frozenset[str]) -> None:
        """A statement is known: ``ca`` is the fingerprint of its first CA, ``members`` of all; may be repeated."""
        if digest in self._pages:
            return
        self._pages[digest] = _Page(ca)
        self._members[digest] = members
        while len(self._pages) > STATEMENTS:
            oldest = next(iter(self._pages))
            del self._pages[oldest], self._members[oldest]

    def published(self, digest: str, at: float) -> None:
        """A publisher is about to write the statement; the first counts."""
        page = self._pages.get(digest)
        if page is not None and page.published_at is None:
            page.published_at = at

    def received(self, receipt: Receipt, at: float) -> None:
        """A receipt of an expected agent has arrived."""
        if receipt.proven is None:
            return
        digest = receipt.proven.digest
        if (page := self._pages.get(digest)) is not None:
            page.proven.setdefault(receipt.pod, at)
        if receipt.leaf is None or receipt.leaf.issuer_sha256 not in self._members.get(digest, ()):
            return
        for page in self._pages.values():
            if page.ca == receipt.leaf.issuer_sha256:
                page.leaf_proven.setdefault(receipt.pod, at)

    def proofs(self, digest: str) -> Proofs:
        """What is known of a statement."""
        page = self._pages.get(digest)
        return Proofs(page.published_at, page.proven, page.leaf_proven) if page else NOTHING
