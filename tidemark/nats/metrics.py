"""Prometheus metrics of connections, in the application's own registry.

``connect(..., registry=REGISTRY)`` is all that an application writes; prometheus_client is imported only then. Every
metric has the label ``connection``: nats-py's option ``name``, empty without one.
"""

from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tidemark.nats.errors import ReloadFailed
from tidemark.nats.installed_set import InstalledSet
from tidemark.nats.reload_report import Reloaded

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LABEL = ("connection",)


class _Families:
    """The metrics of a registry, which all its connections share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        options: dict[str, Any] = {"registry": registry}
        self.reloads = Counter(
            "ca_rotation_application_reloads",
            "Reloads by outcome: reloaded, or the step that failed (read, connect, subscribe).",
            (*_LABEL, "outcome"),
            **options,
        )
        self.seconds = Histogram(
            "ca_rotation_application_reload_duration_seconds",
            "From reading the directory to the old connection's end.",
            _LABEL,
            buckets=_SECONDS,
            **options,
        )
        self.leaf_expiry = Gauge(
            "ca_rotation_application_leaf_expiry_timestamp_seconds",
            "Until when the leaf is valid that the present connection was made with.",
            _LABEL,
            **options,
        )


_FAMILIES: WeakKeyDictionary[CollectorRegistry, _Families] = WeakKeyDictionary()


class Metrics:
    """Implements ``ReloadMetrics``, for one connection."""

    def __init__(self, registry: CollectorRegistry, name: str) -> None:
        self._families = _FAMILIES.setdefault(registry, _FAMILIES.get(registry) or _Families(registry))
        self._name = name
        for outcome in ("reloaded", "read", "connect", "subscribe"):
            self._families.reloads.labels(name, outcome)

    def connected(self, installed: InstalledSet) -> None:
        """Record the set in use."""
        self._families.leaf_expiry.labels(self._name).set(installed.leaf_not_after)

    def count(self, outcome: Reloaded | ReloadFailed) -> None:
        """Count the end of a reload."""
        if isinstance(outcome, ReloadFailed):
            self._families.reloads.labels(self._name, outcome.step).inc()
            return
        self._families.reloads.labels(self._name, "reloaded").inc()
        self._families.seconds.labels(self._name).observe(outcome.seconds)
