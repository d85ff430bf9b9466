"""manifests/monitoring: what is scraped is there, and every alert says who is woken, what for, and what to do."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.harness.authority.monitoring_stack import rule_groups
from tests.harness.manifests.build import Object, build, one, pods
from tests.harness.manifests.custom_resources import is_custom, validate
from tests.harness.paths import DOCS, MONITORING

OPERATE = DOCS / "operate.md"
ALERTS: list[dict[str, Any]] = [
    rule
    for group in rule_groups()
    for rule in group["rules"]  # type: ignore[attr-defined]
    if "alert" in rule
]


def test_monitoring_builds_into_one_namespace() -> None:
    objects = build("monitoring")
    assert sorted(item["kind"] for item in objects) == ["ConfigMap", "PodMonitor", "PrometheusRule", "ServiceMonitor"]
    assert {item["metadata"]["namespace"] for item in objects} == {"tidemark"}
    dashboard = one(objects, "ConfigMap", "tidemark-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["dashboard.json"])["uid"] == "tidemark"
    for file in MONITORING.iterdir():
        assert file.name in (MONITORING / "kustomization.yaml").read_text() or file.stem == "kustomization"


def test_monitoring_objects_fit_their_schemas() -> None:
    kinds = set()
    for item in build("monitoring"):
        if is_custom(item):
            validate(item)
            kinds.add(item["kind"])
        else:
            kubernetes_validate.validate(item, "1.33", strict=True)
    assert kinds == {"PodMonitor", "PrometheusRule", "ServiceMonitor"}


def test_pod_monitor_schema_refuses_an_unknown_field() -> None:
    monitor = one(build("monitoring"), "PodMonitor", "tidemark-agents")
    monitor["spec"]["podMetricsEndpoint"] = monitor["spec"].pop("podMetricsEndpoints")
    with pytest.raises(jsonschema.ValidationError, match="podMetricsEndpoint"):
        validate(monitor)


@pytest.mark.parametrize("path", ["examples/nats", "examples/application"])
def test_pod_monitor_selects_agents_and_their_port(path: str) -> None:
    monitor = one(build("monitoring"), "PodMonitor", "tidemark-agents")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    ((_, template),) = pods(build(path))
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    agent = next(each for each in template["spec"]["initContainers"] if each["name"] == "tidemark-agent")
    assert endpoint["port"] in [port["name"] for port in agent["ports"]]


@pytest.mark.parametrize("path", ["overlays/openbao", "overlays/embedded"])
def test_service_monitor_verifies_a_name_of_the_authority_certificate(path: str) -> None:
    monitor = one(build("monitoring"), "ServiceMonitor", "tidemark-authority")["spec"]
    (endpoint,) = monitor["endpoints"]
    objects = build(path)
    scraped = [
        service["metadata"]["name"]
        for service in objects
        if service["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        and endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    ]
    assert scraped == ["tidemark-authority"], "by which Prometheus names the job"
    (text,) = one(objects, "ConfigMap", "tidemark-authority-config")["data"].values()
    assert f'"{endpoint["tlsConfig"]["serverName"]}"' in text
    assert "insecureSkipVerify" not in endpoint["tlsConfig"]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_summary_severity_and_runbook(rule: Object) -> None:
    name, annotations = rule["alert"], rule["annotations"]
    assert re.fullmatch(r"Tidemark[A-Z][A-Za-z]+", name)
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert annotations["summary"]
    assert annotations["description"]
    assert annotations["runbook_url"] == f"docs/operate.md#{name.lower()}"
    assert f"### {name}\n" in OPERATE.read_text(), "the anchor of the URL"


def test_one_line_of_the_kustomization_sets_every_runbook_url() -> None:
    groups = one(build("monitoring"), "PrometheusRule", "tidemark")["spec"]["groups"]
    built = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule]
    place = "https://tidemark.example.com/docs/operate.md"
    assert built == [f"{place}#{rule['alert'].lower()}" for rule in ALERTS]
    assert (MONITORING / "kustomization.yaml").read_text().count(place) == 1


def test_foreign_bundle_alert_is_critical_at_once() -> None:
    (rule,) = (rule for rule in ALERTS if rule["alert"] == "TidemarkForeignBundle")
    assert rule["labels"]["severity"] == "critical"
    assert "for" not in rule


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    tested = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case.get("exp_alerts")}
    silent = {case["alertname"] for test in tested for case in test["alert_rule_test"] if not case.get("exp_alerts")}
    assert fired == silent == {rule["alert"] for rule in ALERTS}
