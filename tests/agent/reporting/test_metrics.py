"""The agent's metrics: exactly the names and labels that dashboards and alerts are written for."""

from prometheus_client import CollectorRegistry

from agent.reporting.metrics import AgentMetrics
from agent.reporting.status import AgentIdentity, AgentStatus, InstalledStatus
from tidemark.receipt import PodClass
from tidemark.verify import Mark

NAMES = {
    "ca_rotation_secret_propagation_seconds": ("histogram", set()),
    "ca_rotation_verifications_total": ("counter", {"outcome", "reason"}),
    "ca_rotation_reloads_total": ("counter", {"target", "outcome"}),
    "ca_rotation_stage_duration_seconds": ("histogram", {"stage"}),
    "ca_rotation_installed_sequence": ("gauge", set()),
    "ca_rotation_installed_epoch": ("gauge", set()),
    "ca_rotation_proven_sequence": ("gauge", set()),
    "ca_rotation_reverts_total": ("counter", {"reason"}),
    "ca_rotation_bundle_expiry_timestamp_seconds": ("gauge", set()),
    "ca_rotation_leaf_expiry_timestamp_seconds": ("gauge", set()),
    "ca_rotation_polled_mounts": ("gauge", set()),
    "ca_rotation_epoch_seconds": ("gauge", set()),  # what alerts measure age by (decision 25)
}


def test_metrics_have_documented_names_and_labels() -> None:
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    metrics.observe_propagation(1.0)
    metrics.count_verification("rejected", "signature")
    metrics.count_reload("signal:nats-server", "proven")
    metrics.observe_stages(dict.fromkeys(("detect", "verify", "install", "reload", "prove"), 0.1))
    metrics.count_revert("reload_refused")
    mark = Mark(7, "a" * 64)
    installed = InstalledStatus(mark, 42, 2000, 1000, ((0, 2000),), 1500, 5.0, 20)
    identity = AgentIdentity("nats-0", "uid-0", PodClass.REQUIRED, "nonce", "0.1.0")
    metrics.update_gauges(
        AgentStatus(identity, installed=installed, proven=Mark(6, "b" * 64), polled=("/bundle", "/leaf"))
    )

    found = {}
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    assert found == NAMES

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"ca_rotation_{name}")

    assert (value("installed_sequence"), value("installed_epoch"), value("proven_sequence")) == (7, 42, 6)
    assert (value("bundle_expiry_timestamp_seconds"), value("leaf_expiry_timestamp_seconds")) == (2000, 1500)
    assert value("polled_mounts") == 2
    stages = {s.labels["stage"] for f in registry.collect() for s in f.samples if "stage" in s.labels}
    assert stages == {"detect", "verify", "install", "reload", "prove"}
