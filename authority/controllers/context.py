"""Shared dependencies of all controllers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from authority.fleet.view import heartbeat_seconds
from authority.journal.store import JournalStore
from authority.rotation.events import Observer
from authority.support.clock_skew import ReferenceClock, check_clock
from tidemark.epoch import EpochClock, Timing
from tidemark.trust import Trust


@dataclass(frozen=True, slots=True)
class ControllerContext:
    """What every controller needs: the journal, the configuration, the clock, and where events are reported."""

    journal: JournalStore

    trust: Trust
    """What agents verify by: the trust domain, and the verifiers of the signer's keys."""

    timing: Timing

    now: Callable[[], int]
    """Returns whole Unix seconds."""

    observe: Observer
    """Called with each event as it happens."""

    reconcile_seconds: int = 0
    """Seconds between two reconciliations where no event asks for one; 0: a heartbeat."""

    references: Mapping[str, ReferenceClock] = field(default_factory=dict)
    """Clocks of other servers, by their names, that the authority's own clock has to agree with."""

    def check_clock(self) -> None:
        """Called before anything is signed, decided or deleted by the time. Raises ClockDiffers."""
        check_clock(self.references, self.now(), self.timing.tolerance_seconds)

    @property
    def clock(self) -> EpochClock:
        """Epochs, validity and preparation."""
        return self.timing.clock

    @property
    def heartbeat(self) -> int:
        """Seconds after which a controller reconciles without an event; its longest backoff as well."""
        return self.reconcile_seconds or heartbeat_seconds(self.clock)
