"""The authority's metrics, in a registry of their own; names and meanings: docs/architecture.md, "Metrics"."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from authority.fleet.view import FleetView
from authority.journal.history import History
from authority.rotation.actions import Step
from authority.rotation.events import (
    Activated,
    AnchorsRemoved,
    AppendConflict,
    Event,
    FleetProven,
    Prepared,
    Published,
    StepFailed,
)
from tidemark.receipt import PodClass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)  # seconds


class AuthorityMetrics:
    """Counts events as they happen; the gauges have the state that ``set_state`` and ``set_fleet`` were given last.

    Sixteen fields, since each is one metric.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library does not say its type
        self.registry = CollectorRegistry()
        self._attempts = Counter(
            "ca_rotation_attempts",
            "Steps: a CA prepared, activated, withdrawn; failed, or dropped after a conflict in the journal.",
            ["outcome"],
            registry=self.registry,
        )
        self._generation = self._histogram("generation", "From issuing a CA to its statement in the journal.")
        self._orchestration = self._histogram("orchestration", "From the statement to the last required agent's proof.")
        self._publish_total = Counter(
            "ca_rotation_publish", "Writes by publishers.", ["target", "outcome"], registry=self.registry
        )
        self._publish_duration = self._histogram("publish", "How long a publisher's write took.", "target")
        self._current_epoch = self._gauge("current_epoch", "Epoch of the newest statement.")
        self._current_sequence = self._gauge("current_sequence", "Number of the newest statement.")
        self._epoch_seconds = self._gauge("epoch_seconds", "Length of an epoch by the newest statement.")
        self._active_epoch = self._gauge("active_epoch", "Epoch of the CA that signs leaf certificates.")
        self._last_success = self._gauge("last_success_timestamp_seconds", "When a CA was last activated.")
        self._expiry = self._gauge("signing_ca_expiry_timestamp_seconds", "When the CA that signs expires.")
        self._agents = self._gauge("fleet_agents", "Agents by state.", "state")
        self._required = self._gauge("fleet_required_agents", "Agents that the gate waits for, by state.", "state")
        self._leads = self._gauge("leader", "1 on the replica that leads: it alone tells of fleet and gate.")
        self._held = self._gauge("gate_held", "1 while a CA should sign and its gate is closed.")

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"ca_rotation_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        name = f"ca_rotation_{name}_duration_seconds"
        return Histogram(name, text, labels, registry=self.registry, buckets=_BUCKETS)

    def observe(self, event: Event) -> None:
        """Count an event of the controllers."""
        match event:
            case Prepared(seconds=seconds):
                self._attempts.labels("prepared").inc()
                self._generation.observe(seconds)
            case AnchorsRemoved():
                self._attempts.labels("withdrawn").inc()
            case Activated():
                self._attempts.labels("activated").inc()
            case StepFailed(step=Step.PREPARE | Step.ACTIVATE | Step.REMOVE_ANCHORS):
                self._attempts.labels("failed").inc()
            case AppendConflict():
                self._attempts.labels("conflict").inc()
            case FleetProven(seconds=seconds):
                self._orchestration.observe(seconds)
            case Published(target=target, outcome=outcome, seconds=seconds):
                self._publish_total.labels(target, outcome.value).inc()
                self._publish_duration.labels(target).observe(seconds)
            case StepFailed(step=Step.PUBLISH, target=target):
                self._publish_total.labels(target, "failed").inc()

    def set_state(self, history: History, *, leads: bool) -> None:
        """Set the gauges that every replica knows. Those of the fleet only the leader knows: it has the receipts."""
        self._leads.set(leads)
        if not leads:
            self._agents.clear()
            self._required.clear()
            self._held.set(0)
        if history.newest is not None:
            self._current_epoch.set(history.newest.statement.epoch)
            self._current_sequence.set(history.newest.statement.sequence)
            self._epoch_seconds.set(history.newest.statement.clock.epoch_seconds)
        if history.signing is not None:
            self._active_epoch.set(history.signing.epoch)
            self._expiry.set(history.signing.not_after)
        if history.activations:
            self._last_success.set(history.activations[-1].at)

    def set_fleet(self, fleet: FleetView, *, held: bool) -> None:
        """Set the gauges of agents and gate."""
        for gauge, counts in ((self._agents, fleet.counts()), (self._required, fleet.counts(PodClass.REQUIRED))):
            for state, count in counts.items():
                gauge.labels(state.value).set(count)
        self._held.set(held)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
