"""Time to distrust: when each agent's first proof of a statement without a withdrawn CA arrived; pure.

Instants are Unix seconds with fractions, by the authority's clock. After a restart the authority only sees the receipts
since then, so the instants are upper bounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from authority.journal.history import EMPTY, History, distrusting_digests
from tidemark.receipt import Receipt


@dataclass(slots=True)
class _Record:
    digests: frozenset[str] = frozenset()
    """Statements whose proof shows that an agent distrusts the CA."""
    requested_at: float | None = None
    removed_at: float | None = None
    proven: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaDistrustTimes:
    """The times of one withdrawn CA.

    ``requested_at`` and ``removed_at`` are None where this process took no part; then the journal has whole seconds.
    """

    requested_at: float | None
    """When the withdrawal was asked for."""
    removed_at: float | None
    """When the first statement without the CA was committed."""
    proven: Mapping[str, float]
    """By agent: when its first proof of a statement without the CA arrived."""


NOTHING = CaDistrustTimes(None, None, MappingProxyType({}))


@dataclass(slots=True)
class DistrustTimes:
    """One record for each withdrawn CA that the journal still holds, by fingerprint."""

    _records: dict[str, _Record] = field(default_factory=dict)
    _history: History = EMPTY

    def withdrawal_requested(self, ca: str, at: float) -> None:
        """The withdrawal of this CA was asked for; only the first request counts."""
        record = self._records.setdefault(ca, _Record())
        if record.requested_at is None:
            record.requested_at = at

    def anchor_removed(self, ca: str, at: float) -> None:
        """A statement without this CA was committed."""
        self._records.setdefault(ca, _Record()).removed_at = at

    def received(self, receipt: Receipt, history: History, at: float) -> None:
        """A receipt of an expected agent arrived."""
        if history is not self._history:
            self._update_records(history)
        if receipt.proven is None:
            return
        for record in self._records.values():
            if receipt.proven.digest in record.digests:
                record.proven.setdefault(receipt.pod, at)

    def of(self, ca: str) -> CaDistrustTimes:
        """What is known of one CA."""
        record = self._records.get(ca)
        return CaDistrustTimes(record.requested_at, record.removed_at, record.proven) if record else NOTHING

    def _update_records(self, history: History) -> None:
        self._history = history
        withdrawn = {ca.sha256: ca for ca in history.cas if ca.withdrawal or ca.withdrawn}
        self._records = {sha256: self._records.get(sha256) or _Record() for sha256 in withdrawn}
        for sha256, record in self._records.items():
            record.digests = distrusting_digests(withdrawn[sha256], history)
