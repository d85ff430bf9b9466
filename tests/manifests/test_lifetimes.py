"""How long the manifests wait, and for whom: starts, drains, and a place for each replica."""

import pytest

from tests.harness.manifests.build import WITH_PODS, build, containers, one, pods

RESET = 600
"""Seconds that a container has to run for the kubelet to forget how often it was started anew."""


@pytest.mark.parametrize("path", ["overlays/openbao", "overlays/embedded"])
def test_startup_probe_of_the_authority_outlasts_a_wait_for_openbao(path: str) -> None:
    ((_, template),) = pods(build(path))
    (container,) = template["spec"]["containers"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > RESET


def test_startup_probe_of_the_agent_holds_the_workload_until_a_bundle() -> None:
    for path in ("examples/nats", "examples/application"):
        ((_, template),) = pods(build(path))
        probe = template["spec"]["initContainers"][0]["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= RESET


@pytest.mark.parametrize("path", WITH_PODS)
def test_disruption_budgets_always_allow_a_drain(path: str) -> None:
    """One pod may go at a time, also where it is the only one."""
    for item in build(path):
        if item["kind"] == "PodDisruptionBudget":
            assert item["spec"].keys() == {"maxUnavailable", "selector"}
            assert item["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("overlays/openbao", "Deployment", "tidemark-authority"),
        ("examples/nats", "StatefulSet", "nats"),
    ],
)
def test_replicas_prefer_nodes_of_their_own(path: str, kind: str, name: str) -> None:
    spec = one(build(path), kind, name)["spec"]
    assert spec["replicas"] > 1
    (constraint,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", "one node is enough to try it out"
    assert constraint["labelSelector"] == spec["selector"]


@pytest.mark.parametrize("path", WITH_PODS)
def test_probes_use_a_port_of_their_container(path: str) -> None:
    for _, template in pods(build(path)):
        for container in containers(template["spec"]):
            ports = {port["name"] for port in container.get("ports", [])}
            probes = [container[name] for name in container if name.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports, container["name"]
