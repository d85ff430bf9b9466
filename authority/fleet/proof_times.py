"""Times of a rotation: when the first proof of each statement, and of each CA's leaf, arrived; pure.

Only the newest statements and only expected agents are remembered, so memory stays small however many receipts arrive.
Instants are Unix seconds with fractions, by the authority's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from authority.journal.history import SignedStatement
from tidemark.receipt import Receipt

STATEMENTS = 8
"""How many statements are remembered: with CAs valid for four epochs, two validities."""


@dataclass(frozen=True, slots=True)
class StatementProofTimes:
    """The times of one statement."""

    published_at: float | None
    """When the first write by a publisher began; None where that is not known."""
    proven: Mapping[str, float]
    """By agent: when its first proof of the statement arrived."""
    leaf_proven: Mapping[str, float]
    """By agent: when its first proof of a leaf arrived that this statement's first CA had signed."""


NOTHING = StatementProofTimes(None, MappingProxyType({}), MappingProxyType({}))


@dataclass(slots=True)
class _Record:
    ca: str
    """Fingerprint of the statement's first CA."""
    anchors: frozenset[str]
    """Fingerprints of all CAs in the bundle."""
    is_ours: bool = False
    """Whether this process committed the statement."""
    published_at: float | None = None
    proven: dict[str, float] = field(default_factory=dict)
    leaf_proven: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class ProofTimes:
    """One record for each of the newest statements, by digest."""

    _records: dict[str, _Record] = field(default_factory=dict)

    def follow(self, statements: Sequence[SignedStatement]) -> None:
        """Keep records of the newest of these; ``statements`` are in order of their sequence."""
        newest = {signed.digest: signed for signed in statements[-STATEMENTS:]}
        if newest.keys() == self._records.keys():
            return
        self._records = {digest: self._records.get(digest) or _record(signed) for digest, signed in newest.items()}

    def committed(self, digest: str) -> None:
        """This process has just committed the statement: so no other wrote it before, and its first write is ours."""
        if (record := self._records.get(digest)) is not None:
            record.is_ours = True

    def publishing(self, digest: str, at: float) -> None:
        """A publisher begins to write the statement.

        ``published_at`` stays None for statements that another process committed: that process may have written first.
        """
        record = self._records.get(digest)
        if record is not None and record.is_ours and record.published_at is None:
            record.published_at = at

    def received(self, receipt: Receipt, at: float) -> None:
        """A receipt of an expected agent arrived."""
        if receipt.proven is None:
            return
        record = self._records.get(receipt.proven.digest)
        if record is None:
            return
        record.proven.setdefault(receipt.pod, at)
        # The leaf may be of an older CA than the bundle's first: its proof counts for the statement that introduced
        # that CA. A leaf of a CA outside the proven bundle proves nothing.
        issuer = receipt.leaf.issuer_sha256 if receipt.leaf else ""
        if issuer in record.anchors:
            for other in self._records.values():
                if other.ca == issuer:
                    other.leaf_proven.setdefault(receipt.pod, at)

    def proofs(self, digest: str) -> StatementProofTimes:
        """What is known of a statement."""
        record = self._records.get(digest)
        return StatementProofTimes(record.published_at, record.proven, record.leaf_proven) if record else NOTHING


def _record(signed: SignedStatement) -> _Record:
    anchors = signed.statement.anchors
    return _Record(ca=anchors[0].sha256, anchors=frozenset(anchor.sha256 for anchor in anchors))
