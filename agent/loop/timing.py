"""How long the agent waits for a workload, and how often it tries again."""

from dataclasses import dataclass

from agent.backoff import doubled, jittered


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long the agent waits, in seconds, and how often it tries.

    ``proof``: for one proof; ``tries`` with ``pause`` between them, doubled each time; ``look``: for a first look
    without telling, and for the look before telling; ``absent`` (doubled up to ``longest_absent``): before looking
    again for a workload that is not there; ``refused`` (doubled up to ``longest_refused``): before a refused set, or
    one that could not be written, is tried again; ``judged``: before what was rejected is judged again, at the latest,
    as a clock may have been set meanwhile.
    """

    proof: float = 5.0
    tries: int = 3
    pause: float = 0.5
    look: float = 1.0
    absent: float = 0.1
    longest_absent: float = 2.0
    refused: float = 10.0
    longest_refused: float = 300.0
    judged: float = 60.0

    def before_try(self, failures: int) -> float:
        """The pause after so many failed tries, with jitter."""
        return jittered(doubled(self.pause, failures - 1))

    def before_look(self, looks: int) -> float:
        """The pause after so many vain looks for the workload."""
        return doubled(self.absent, looks, self.longest_absent)

    def before_return(self, refusals: int) -> float:
        """The pause after a set was refused so many times, with jitter."""
        return jittered(doubled(self.refused, refusals - 1, self.longest_refused))
