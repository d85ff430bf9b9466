"""What every sequencer works in: the journal, the timing, the clock, and who is told."""

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
    """``trust`` is what agents are given to believe us by: the domain and the verifiers of the signer's keys.

    ``now`` returns whole Unix seconds; ``observe`` takes each event as it happens; ``look_every`` is how often, in
    seconds, targets and clock are looked at even where nobody says that anything changed (0: every heartbeat).
    ``references`` are the clocks of others, by their names, that ours has to agree with.
    """

    timeline: JournalStore
    trust: Trust
    timing: Timing
    now: Callable[[], int]
    observe: Observer
    look_every: int = 0
    references: Mapping[str, ReferenceClock] = field(default_factory=dict)

    def check_clock(self) -> None:
        """Before anything is signed, decided or deleted by the time. Raises ClockDiffers."""
        check_clock(self.references, self.now(), self.timing.tolerance_seconds)

    @property
    def clock(self) -> EpochClock:
        """Epochs, validity and preparation."""
        return self.timing.clock

    @property
    def heartbeat(self) -> int:
        """Seconds after which a sequencer looks again even where nobody woke it, and its longest pause."""
        return self.look_every or heartbeat_seconds(self.clock)
