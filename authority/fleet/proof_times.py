"""When the first receipts arrived that proved each statement, and each CA's leaf: what a rotation is timed by; pure.

Of the newest statements only, and only of agents that are expected, so that it stays small however many receipts come
in. Instants are Unix seconds with fractions, by the authority's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from authority.journal.history import SignedStatement
from tidemark.receipt import Receipt

STATEMENTS = 8
"""How many statements are remembered: with V = 4·D, two validities."""


@dataclass(frozen=True, slots=True)
class StatementProofTimes:
    """What is known of one statement: when its first write began, and by agent when its first proof arrived.

    ``leaf_proven`` counts receipts that prove a statement with this one's first CA, and a leaf that this CA signed.
    """

    published_at: float | None
    proven: Mapping[str, float]
    leaf_proven: Mapping[str, float]


NOTHING = StatementProofTimes(None, MappingProxyType({}), MappingProxyType({}))


@dataclass(slots=True)
class _Page:
    ca: str
    members: frozenset[str]
    is_ours: bool = False
    published_at: float | None = None
    proven: dict[str, float] = field(default_factory=dict)
    leaf_proven: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class ProofTimes:
    """A page for each of the newest statements, by digest."""

    _pages: dict[str, _Page] = field(default_factory=dict)

    def follow(self, statements: Sequence[SignedStatement]) -> None:
        """Have a page for the newest of these, which stand in order."""
        newest = {signed.digest: signed for signed in statements[-STATEMENTS:]}
        if newest.keys() == self._pages.keys():
            return
        self._pages = {digest: self._pages.get(digest) or _page(signed) for digest, signed in newest.items()}

    def committed(self, digest: str) -> None:
        """This authority has just committed the statement: whoever writes it first is the first of all."""
        if (page := self._pages.get(digest)) is not None:
            page.is_ours = True

    def publishing(self, digest: str, at: float) -> None:
        """A publisher begins to write the statement.

        After a restart nobody knows who wrote it first: then ``published_at`` stays open.
        """
        page = self._pages.get(digest)
        if page is not None and page.is_ours and page.published_at is None:
            page.published_at = at

    def received(self, receipt: Receipt, at: float) -> None:
        """A receipt of an expected agent has arrived."""
        if receipt.proven is None:
            return
        page = self._pages.get(receipt.proven.digest)
        if page is None:
            return
        page.proven.setdefault(receipt.pod, at)
        issuer = receipt.leaf.issuer_sha256 if receipt.leaf else ""
        if issuer in page.members:
            for other in self._pages.values():
                if other.ca == issuer:
                    other.leaf_proven.setdefault(receipt.pod, at)

    def proofs(self, digest: str) -> StatementProofTimes:
        """What is known of a statement."""
        page = self._pages.get(digest)
        return StatementProofTimes(page.published_at, page.proven, page.leaf_proven) if page else NOTHING


def _page(signed: SignedStatement) -> _Page:
    anchors = signed.statement.anchors
    return _Page(ca=anchors[0].sha256, members=frozenset(anchor.sha256 for anchor in anchors))
