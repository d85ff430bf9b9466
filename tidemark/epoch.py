"""The epoch clock: which certificate authority (CA) is due when.

Epoch N is the N-th interval of length D since 1970-01-01T00:00:00Z. All instants and durations are whole seconds as
``int`` (Unix time, UTC) and all arithmetic is exact, so all machines that know D, V and P agree to the second.
"""

from dataclasses import dataclass

RELOAD_SECONDS = 5
"""The longest that a workload may take to reload and prove it (the agent's proof time-out), in seconds."""


class ClockError(ValueError):
    """Values that contradict each other; the message names them with their keys and says what was expected."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ClockError(message)


@dataclass(frozen=True, slots=True)
class EpochClock:
    """The three durations that every statement carries, in seconds.

    Raises:
        ClockError: outside 3 <= V/D <= 24 or 0 < P < D.
    """

    epoch_seconds: int
    """D: the length of an epoch."""
    validity_seconds: int
    """V: from the start of its epoch, how long a CA is valid."""
    prepare_seconds: int
    """P: how long before the start of its epoch a CA is issued and published."""

    def __post_init__(self) -> None:
        d, v, p = self.epoch_seconds, self.validity_seconds, self.prepare_seconds
        _require(d > 0, f"epoch_seconds = {d}: expected a positive number of seconds")
        _require(
            3 * d <= v <= 24 * d,
            f"validity_seconds = {v} with epoch_seconds = {d}: expected 3 to 24 epochs, that is {3 * d} to {24 * d}",
        )
        _require(
            0 < p < d,
            f"prepare_seconds = {p} with epoch_seconds = {d}: expected more than 0 and less than one epoch",
        )

    def epoch_at(self, now: int) -> int:
        """The epoch in which ``now`` lies."""
        return now // self.epoch_seconds

    def start(self, epoch: int) -> int:
        """The epoch's first second, from which its CA may be activated."""
        return epoch * self.epoch_seconds

    def expiry(self, epoch: int) -> int:
        """NotAfter of the epoch's CA."""
        return self.start(epoch) + self.validity_seconds

    def prepare_at(self, epoch: int) -> int:
        """The second from which the epoch's CA should exist and be published."""
        return self.start(epoch) - self.prepare_seconds

    def newest_due(self, now: int) -> int:
        """The newest epoch whose CA should exist at ``now``: the next epoch within P of its start, else the present."""
        return self.epoch_at(now + self.prepare_seconds)

    def valid_epochs(self, now: int) -> range:
        """The epochs whose CA, made on schedule, exists and has not expired at ``now``, oldest first."""
        oldest = (now - self.validity_seconds) // self.epoch_seconds + 1
        return range(oldest, self.newest_due(now) + 1)


@dataclass(frozen=True, slots=True)
class Timing:
    """A clock with the durations that only the authority needs, checked together.

    Raises:
        ClockError: outside L <= V - 2 D, tolerance <= D/2, tolerance + delivery < L/2, or
            delivery + splay + reload < P.
    """

    clock: EpochClock
    tolerance_seconds: int
    """How far two clocks may differ."""
    leaf_seconds: int
    """L: the lifetime of a leaf certificate."""
    delivery_seconds: int
    """The longest that a bundle takes into a pod: about 90 s with kubelets."""
    splay_seconds: int = 0
    """The longest delay that application targets may add."""

    def __post_init__(self) -> None:
        d, v, p = self.clock.epoch_seconds, self.clock.validity_seconds, self.clock.prepare_seconds
        tolerance, leaf, delivery = self.tolerance_seconds, self.leaf_seconds, self.delivery_seconds
        for name in ("tolerance_seconds", "delivery_seconds", "splay_seconds"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} = {value}: expected 0 or more seconds")
        _require(
            0 < leaf <= v - 2 * d,
            f"leaf_seconds = {leaf} with validity_seconds = {v} and epoch_seconds = {d}: expected 1 to {v - 2 * d} "
            f"(validity less two epochs), or a held rotation would outlast the leaves",
        )
        _require(
            2 * tolerance <= d,
            f"tolerance_seconds = {tolerance} with epoch_seconds = {d}: expected at most half an epoch, {d // 2}",
        )
        _require(
            2 * (tolerance + delivery) < leaf,
            f"tolerance_seconds = {tolerance} and delivery_seconds = {delivery} with leaf_seconds = {leaf}: expected "
            f"their sum to be less than half a leaf's lifetime, or a renewed leaf could arrive too late",
        )
        arrival = delivery + self.splay_seconds + RELOAD_SECONDS
        _require(
            arrival < p,
            f"prepare_seconds = {p} with delivery_seconds = {delivery}, splay_seconds = {self.splay_seconds} and "
            f"{RELOAD_SECONDS} s for the reload: expected more than their sum, {arrival}",
        )


def default_leaf_seconds(clock: EpochClock) -> int:
    """The lifetime of a leaf where none is configured: two epochs, or less where the CA's validity allows less."""
    return min(2 * clock.epoch_seconds, clock.validity_seconds - 2 * clock.epoch_seconds)


def _preset(epoch: int, validity: int, prepare: int, tolerance: int, delivery: int) -> Timing:
    clock = EpochClock(epoch_seconds=epoch, validity_seconds=validity, prepare_seconds=prepare)
    return Timing(clock, tolerance, default_leaf_seconds(clock), delivery)


PRESETS = {
    "playground": _preset(epoch=20, validity=80, prepare=8, tolerance=5, delivery=1),
    "testing": _preset(epoch=20 * 60, validity=80 * 60, prepare=5 * 60, tolerance=10 * 60, delivery=90),
    "production": _preset(epoch=6 * 3600, validity=24 * 3600, prepare=30 * 60, tolerance=10 * 60, delivery=90),
}
"""Timings by name. ``playground`` relies on the directory publisher, the others on kubelets."""
