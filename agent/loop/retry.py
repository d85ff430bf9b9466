"""When a refused set is tried again: after a pause that grows with each failure, or once a source changes; pure."""

from dataclasses import dataclass

from agent.loop.timing import RetryPolicy

Key = tuple[str, str | None]
"""Identifies a set, see ``TrustSet.key``."""


@dataclass(slots=True)
class Retry:
    """Counts the failures of one set. Instants are seconds of the loop's clock."""

    policy: RetryPolicy
    _failures: int = 0
    _refused: Key | None = None
    _until: float = 0.0

    def start(self, key: Key) -> None:
        """A set goes in place. The count starts afresh unless it is the refused set."""
        if key != self._refused:
            self._failures = 0

    def record_failure(self, now: float, refused: Key | None = None) -> float:
        """Count a failure; returns the pause before the next try, in seconds.

        ``refused`` is the set that a workload refused; None where the set could not be written.
        """
        self._failures += 1
        pause = self.policy.refused_pause_after(self._failures)
        if refused is not None:
            self._refused, self._until = refused, now + pause
        return pause

    def remaining(self, key: Key, now: float) -> float:
        """Seconds left of the pause of the refused set; 0 for every other set."""
        return max(0.0, self._until - now) if key == self._refused else 0.0

    def clear_pause(self) -> None:
        """A source has changed, so the refused set may be tried at once. The count of failures stays."""
        self._until = 0.0

    def record_success(self) -> None:
        """A set was proven: forget the refused set and its failures."""
        self._refused, self._failures = None, 0
