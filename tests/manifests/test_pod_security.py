"""Pods are at the level "restricted", and their namespaces ask for it; the rules find what breaks them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.manifests.build import BUILT, WITH_PODS, build, containers, pods
from tests.harness.manifests.pod_security import violations


@pytest.mark.parametrize("path", WITH_PODS)
def test_every_pod_meets_the_restricted_standard(path: str) -> None:
    found = {name: violations(template["spec"]) for name, template in pods(build(path))}
    assert found
    assert not any(found.values()), found


@pytest.mark.parametrize("path", BUILT)
def test_every_namespace_enforces_the_restricted_standard(path: str) -> None:
    objects = build(path)
    labels = {each["metadata"]["name"]: each["metadata"]["labels"] for each in objects if each["kind"] == "Namespace"}
    used = {each["metadata"]["namespace"] for each in objects if "template" in each.get("spec", {})}
    assert {name for name in labels if labels[name]["pod-security.kubernetes.io/enforce"] == "restricted"} >= used


@pytest.mark.parametrize("path", BUILT)
def test_containers_have_read_only_root_and_limited_memory(path: str) -> None:
    for name, template in pods(build(path)):
        for container in containers(template["spec"]):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, (name, container["name"])
            assert container["resources"]["limits"]["memory"], (name, container["name"])
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, (name, container["name"])
        for volume in template["spec"]["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), (name, volume["name"])


Spec = dict[str, Any]


def context(spec: Spec) -> Spec:
    made: Spec = spec["containers"][0]["securityContext"]
    return made


@pytest.mark.parametrize(
    "breaks",
    [
        lambda spec: spec.update(hostNetwork=True),
        lambda spec: spec.update(hostPID=True),
        lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        lambda spec: spec["securityContext"].update(runAsNonRoot=False),
        lambda spec: spec["securityContext"].update(runAsUser=0),
        lambda spec: spec["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
        lambda spec: spec["securityContext"].pop("seccompProfile"),
        lambda spec: context(spec).update(privileged=True),
        lambda spec: context(spec).update(procMount="Unmasked"),
        lambda spec: context(spec).update(runAsUser=0),
        lambda spec: context(spec).update(seccompProfile={"type": "Unconfined"}),
        lambda spec: context(spec).update(appArmorProfile={"type": "Unconfined"}),
        lambda spec: context(spec).update(seLinuxOptions={"type": "spc_t"}),
        lambda spec: context(spec).pop("allowPrivilegeEscalation"),
        lambda spec: context(spec).update(capabilities={"drop": ["NET_RAW"]}),
        lambda spec: context(spec).update(capabilities={"drop": ["ALL"], "add": ["KILL"]}),
        lambda spec: spec["containers"][0]["ports"].append({"containerPort": 1, "hostPort": 1}),
        lambda spec: spec["initContainers"][0]["securityContext"].pop("capabilities"),
    ],
)
def test_restricted_standard_refuses_each_violation(breaks: Callable[[Spec], object]) -> None:
    ((_, template),) = pods(build("examples/nats"))
    spec = copy.deepcopy(template["spec"])
    assert violations(spec) == []
    breaks(spec)
    assert violations(spec)
