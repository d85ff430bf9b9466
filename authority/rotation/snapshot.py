"""What decisions about rotation rest on: journal, fleet and time, as they were at one instant; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from authority.fleet.view import FleetView
from authority.journal.history import EpochCa, History
from authority.rotation.replacement import Replacement, replacements
from tidemark.epoch import EpochClock

A_THIRD = Fraction(1, 3)


@dataclass(frozen=True)
class Snapshot:
    """The state of a deployment at one instant, made once for each turn of the rotation controller.

    What several rules need is computed once (``replacements``), so the class has no slots.
    """

    history: History
    """The journal; its CAs are marked as lost where the issuer does not hold their keys."""

    fleet: FleetView
    """The expected agents and what they proved."""

    clock: EpochClock
    """Epochs, validity and preparation, as configured now."""

    now: int
    """The instant, in Unix seconds."""

    tolerance_seconds: int = 0
    """How far clocks may differ."""

    ca_ids: frozenset[str] | None = None
    """The CAs that the issuer holds; None where the issuer was not asked since the newest statement.

    Without it no CA is activated or deleted.
    """

    active: str | None = None
    """The CA that the issuer signs with for others; None where that is not known."""

    rollback_above: Fraction = A_THIRD
    """A CA is rolled back unasked where more than this share of the required agents put its statement back."""

    @cached_property
    def signing(self) -> EpochCa | None:
        """The CA that was activated last; None where it expired or was withdrawn, or none ever was."""
        return self.history.signing_at(self.now)

    @cached_property
    def replacements(self) -> tuple[Replacement, ...]:
        """Of each withdrawn CA that no activated CA has replaced yet."""
        return replacements(self.history, self.clock, self.now)

    @cached_property
    def successors(self) -> Mapping[str, bool]:
        """Fingerprints of the CAs that replace withdrawn ones as soon as their gates open; True: at once."""
        wanted: dict[str, bool] = {}
        for each in self.replacements:
            if each.ca is not None:
                wanted[each.ca.sha256] = wanted.get(each.ca.sha256, False) or each.urgent
        return wanted
