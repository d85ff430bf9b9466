"""How long the agent waits for a workload, and how often it tries again."""

from dataclasses import dataclass

from agent.backoff import doubled, jittered


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Every wait of the loop, in seconds. Nine fields in one object, so that a caller replaces all waits at once."""

    proof_timeout: float = 5.0
    """For one reload, and for one proof."""
    tries: int = 3
    """Tries of one workload before its set counts as not proven."""
    retry_pause: float = 0.5
    """After the first failed try of a workload; doubled after each further one."""
    probe_timeout: float = 1.0
    """For a probe without a reload, and for the probe before a reload."""
    absent_pause: float = 0.1
    """After a workload was not reachable; doubled each time, up to ``longest_absent_pause``."""
    longest_absent_pause: float = 2.0
    """The longest pause between two attempts to reach an absent workload."""
    refused_pause: float = 10.0
    """After a set was refused or could not be written; doubled each time, up to ``longest_refused_pause``."""
    longest_refused_pause: float = 300.0
    """The longest pause before a refused set is tried again."""
    rejudge_after: float = 60.0
    """At the latest, rejected candidates are judged again after this time: a clock may have been set meanwhile."""

    def retry_pause_after(self, failures: int) -> float:
        """The pause after so many failed tries, with jitter."""
        return jittered(doubled(self.retry_pause, failures - 1))

    def absent_pause_after(self, attempts: int) -> float:
        """The pause after so many earlier attempts to reach an absent workload; without jitter."""
        return doubled(self.absent_pause, attempts, self.longest_absent_pause)

    def refused_pause_after(self, refusals: int) -> float:
        """The pause after a set was refused so many times, with jitter."""
        return jittered(doubled(self.refused_pause, refusals - 1, self.longest_refused_pause))
