"""When what failed is tried again: after a pause that grows with each failure, or as soon as something has changed."""

from dataclasses import dataclass

from agent.loop.timing import RetryPolicy

Key = tuple[str, str | None]
"""What tells sets apart, see ``TrustSet.key``."""


@dataclass(slots=True)
class Retry:
    """Counts the failures of one set. Instants are seconds of the loop's clock."""

    patience: RetryPolicy
    _failures: int = 0
    _refused: Key | None = None
    _until: float = 0.0

    def begins(self, key: Key) -> None:
        """A set goes in place; another one than was refused starts afresh."""
        if key != self._refused:
            self._failures = 0

    def fails(self, now: float, refused: Key | None = None) -> float:
        """It failed (``refused``: the workload did not take this set); returns the pause, in seconds."""
        self._failures += 1
        pause = self.patience.before_return(self._failures)
        if refused is not None:
            self._refused, self._until = refused, now + pause
        return pause

    def rest(self, key: Key, now: float) -> float:
        """What is left of the pause of a refused set, in seconds; 0 for every other set."""
        return max(0.0, self._until - now) if key == self._refused else 0.0

    def something_changed(self) -> None:
        """What was refused may fare better now."""
        self._until = 0.0

    def succeeds(self) -> None:
        """A set was proven."""
        self._refused, self._failures = None, 0
