"""Time to distrust: when each agent was first seen to have proven a statement without a withdrawn CA; pure.

Instants are Unix seconds with fractions, by the authority's clock. After a restart they are those of the first receipts
since, and so upper bounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from authority.journal.history import EMPTY, History, distrusting_digests
from tidemark.receipt import Receipt


@dataclass(slots=True)
class _Page:
    digests: frozenset[str] = frozenset()
    asked_at: float | None = None
    left_out_at: float | None = None
    proven: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaDistrustTimes:
    """Of one withdrawn CA: when its withdrawal was asked for, when it was left out, and each agent's proof of that.

    The first two are exact where this process took part (None where it did not: the journal has whole seconds).
    """

    asked_at: float | None
    left_out_at: float | None
    proven: Mapping[str, float]


NOTHING = CaDistrustTimes(None, None, MappingProxyType({}))


@dataclass(slots=True)
class DistrustTimes:
    """A page for each CA that is withdrawn and that the journal still knows, by fingerprint."""

    _pages: dict[str, _Page] = field(default_factory=dict)
    _followed: History = EMPTY

    def asked(self, ca: str, at: float) -> None:
        """Somebody asked for the withdrawal of this CA, for the first time."""
        page = self._pages.setdefault(ca, _Page())
        if page.asked_at is None:
            page.asked_at = at

    def left_out(self, ca: str, at: float) -> None:
        """A statement without this CA was committed."""
        self._pages.setdefault(ca, _Page()).left_out_at = at

    def received(self, receipt: Receipt, history: History, at: float) -> None:
        """A receipt of an expected agent has arrived."""
        if history is not self._followed:
            self._follow(history)
        if receipt.proven is None:
            return
        for page in self._pages.values():
            if receipt.proven.digest in page.digests:
                page.proven.setdefault(receipt.pod, at)

    def of(self, ca: str) -> CaDistrustTimes:
        """What is known of one CA."""
        page = self._pages.get(ca)
        return CaDistrustTimes(page.asked_at, page.left_out_at, page.proven) if page else NOTHING

    def _follow(self, history: History) -> None:
        self._followed = history
        withdrawn = {ca.sha256: ca for ca in history.cas if ca.withdrawal or ca.withdrawn}
        self._pages = {sha256: self._pages.get(sha256) or _Page() for sha256 in withdrawn}
        for sha256, page in self._pages.items():
            page.digests = distrusting_digests(withdrawn[sha256], history)
