"""What the journal says, folded into the questions that the plan, the API and the sequencers ask; pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from authority.journal import ActivationRecord, Entry, OverrideRecord
from tidemark.bundle import Bundle, Statement
from tidemark.certificates import Certificate
from tidemark.epoch import EpochClock


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement that the journal holds; ``certificates`` are those of its ``ca.crt``, ``intent`` of the CA it adds."""

    at: int
    intent: str
    bundle: Bundle
    statement: Statement
    digest: str
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class EpochCa:
    """A CA of an epoch, as the journal knows it; ``number`` counts CAs by issue, from 1.

    ``published_at`` is when its first statement was committed; ``clock`` the one it was made under; ``forced`` that its
    first statement's cause was not the rotation; ``activated_at`` is None until it signed; ``skipped`` that a newer one
    was activated in its place.
    """

    number: int
    intent: str
    epoch: int
    clock: EpochClock
    sha256: str
    certificate: Certificate
    not_after: int
    published_at: int
    first_sequence: int
    forced: bool
    activated_at: int | None = None
    skipped: bool = False
    withdrawn: bool = False

    def is_expired(self, now: int) -> bool:
        """Whether it can no longer sign or be trusted."""
        return now >= self.not_after


@dataclass(frozen=True, slots=True)
class History:
    """The folded journal. ``head`` is the last position; CAs stand in order of issue, oldest first."""

    head: int
    statements: tuple[SignedStatement, ...]
    cas: tuple[EpochCa, ...]
    activations: tuple[ActivationRecord, ...]
    overrides: tuple[OverrideRecord, ...]

    @property
    def newest(self) -> SignedStatement | None:
        """The statement with the highest sequence."""
        return self.statements[-1] if self.statements else None

    @property
    def signing(self) -> EpochCa | None:
        """The CA activated last, expired or not; None where it was withdrawn or none ever was."""
        raise NotImplementedError

    def containing(self, sha256: str) -> frozenset[str]:
        """Digests of the statements that contain this CA."""
        raise NotImplementedError


def fold(entries: Sequence[Entry]) -> History:
    """Fold the journal's entries."""
    raise NotImplementedError
