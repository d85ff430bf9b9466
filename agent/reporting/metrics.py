"""The agent's metrics, in a registry passed in; names and meanings: docs/architecture.md, "Metrics"."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agent.reporting.status import AgentStatus

_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
_PROPAGATION_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 300.0)

_GAUGES = (
    ("installed_sequence", "Sequence of the installed statement (0: none)"),
    ("installed_epoch", "Epoch of the installed statement"),
    ("epoch_seconds", "Length of an epoch by the installed statement (0: none)"),
    ("proven_sequence", "Sequence of the last proven statement (0: none)"),
    ("bundle_expiry_timestamp_seconds", "When the installed bundle expires"),
    ("leaf_expiry_timestamp_seconds", "When the installed leaf expires"),
    ("polled_mounts", "Mounts whose changes are found by polling, not announced by inotify"),
)


class AgentMetrics:
    """Counters, histograms and gauges of one agent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._propagation = Histogram(
            "ca_rotation_secret_propagation_seconds",
            "From the issuing of a statement to its arrival at this pod",
            registry=registry,
            buckets=_PROPAGATION_BUCKETS,
        )
        self._verifications = Counter(
            "ca_rotation_verifications",
            "Candidates verified, by outcome (adopted, rejected) and reason",
            ["outcome", "reason"],
            registry=registry,
        )
        self._reloads = Counter(
            "ca_rotation_reloads",
            "Attempts to have a workload use a set, by outcome (a level, absent, or why it is not proven)",
            ["target", "outcome"],
            registry=registry,
        )
        self._stages = Histogram(
            "ca_rotation_stage_duration_seconds",
            "Duration of each stage of a cycle",
            ["stage"],
            registry=registry,
            buckets=_STAGE_BUCKETS,
        )
        self._reverts = Counter(
            "ca_rotation_reverts", "Sets taken back because they were not proven", ["reason"], registry=registry
        )
        self._gauges = {name: Gauge(f"ca_rotation_{name}", text, registry=registry) for name, text in _GAUGES}

    def count_verification(self, outcome: str, reason: str = "") -> None:
        """Count one judged candidate."""
        self._verifications.labels(outcome, reason).inc()

    def observe_propagation(self, seconds: float) -> None:
        """Record how long a statement took from its issue to this pod."""
        self._propagation.observe(seconds)

    def count_reload(self, target: str, outcome: str) -> None:
        """Count one attempt at one target."""
        self._reloads.labels(target, outcome).inc()

    def count_revert(self, reason: str) -> None:
        """Count one set that was replaced by the last proven one."""
        self._reverts.labels(reason).inc()

    def observe_stages(self, stages: Mapping[str, float]) -> None:
        """Record the durations, in seconds, of a journey that ended in a proof."""
        for stage, seconds in stages.items():
            self._stages.labels(stage).observe(seconds)

    def update_gauges(self, status: AgentStatus) -> None:
        """Set the gauges to what the status says."""
        self._gauges["proven_sequence"].set(status.proven.sequence if status.proven else 0)
        self._gauges["polled_mounts"].set(len(status.polled))
        installed = status.installed
        if installed is None:
            return
        self._gauges["installed_sequence"].set(installed.mark.sequence)
        self._gauges["installed_epoch"].set(installed.epoch)
        self._gauges["epoch_seconds"].set(installed.epoch_seconds)
        self._gauges["bundle_expiry_timestamp_seconds"].set(installed.expires_at)
        if installed.leaf_not_after is not None:
            self._gauges["leaf_expiry_timestamp_seconds"].set(installed.leaf_not_after)
