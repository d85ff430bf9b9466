"""Everything builds, and every object is what three Kubernetes minors take."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.harness.manifests.build import BUILT, WITH_PODS, Object, build, containers, everything, pods
from tests.harness.paths import MANIFESTS

MINORS = ("1.30", "1.33", "1.37")
"""The first with everything that is used here, the one that was measured, and the newest that there are schemas of."""


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("path", BUILT)
def test_built_objects_fit_the_kubernetes_schemas(path: str, minor: str) -> None:
    for item in build(path):
        kubernetes_validate.validate(item, minor, strict=True)


def test_kubernetes_schemas_refuse_an_unknown_field() -> None:
    item = next(item for item in build("examples/nats") if item["kind"] == "StatefulSet")
    item["spec"]["template"]["spec"]["initContainers"][0]["restartPolicies"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, MINORS[1], strict=True)


def test_every_manifest_file_belongs_to_a_kustomization() -> None:
    """No kustomization that is applied by itself is left out, and no file that no kustomization names."""
    applied = {
        str(file.parent.relative_to(MANIFESTS))
        for folder in ("overlays", "examples")
        for file in (MANIFESTS / folder).glob("*/kustomization.yaml")
    }
    assert applied == set(BUILT)
    for file in MANIFESTS.glob("*/*/kustomization.yaml"):
        text = file.read_text()
        for beside in file.parent.iterdir():
            assert beside == file or beside.name in text, f"{beside}: expected it in {file}"


def test_images_are_pinned_and_ours_have_the_version_of_the_project() -> None:
    version = re.search(r'^version = "(.*)"$', (MANIFESTS.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    for path in BUILT:
        for _, template in pods(build(path)):
            for container in containers(template["spec"]):
                name, _, tag = container["image"].partition(":")
                assert re.match(r"\d+\.\d+\.\d+", tag), container["image"]
                if name.startswith("tidemark-"):
                    assert tag == version[1]


@pytest.mark.parametrize("path", WITH_PODS)
def test_kustomization_images_of_another_registry_apply_to_every_container(path: str, tmp_path: Path) -> None:
    """``images:`` of a kustomization on top, as docs/install.md says; also the image that a component brought."""
    wanted = {f"tidemark-{name}": f"registry.example.com/tidemark-{name}" for name in ("agent", "authority")}
    images = [{"name": name, "newName": new, "digest": f"sha256:{'0' * 64}"} for name, new in wanted.items()]
    resources = [os.path.relpath(MANIFESTS / path, tmp_path)]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": resources, "images": images}))
    found = {
        container["image"] for _, template in pods(build(str(tmp_path))) for container in containers(template["spec"])
    }
    ours = {image for image in found if "tidemark-" in image}
    assert ours
    assert ours <= {f"{new}@sha256:{'0' * 64}" for new in wanted.values()}


def test_selectors_match_the_labels_of_their_pods() -> None:
    """Services, budgets and policies select pods of their own namespace that are there."""
    for path in BUILT:
        objects = build(path)
        there = [
            (item["metadata"]["namespace"], item["spec"]["template"]["metadata"]["labels"])
            for item in objects
            if "template" in item.get("spec", {})
        ]
        for item in objects:
            if item["kind"] in SELECTORS:
                selector, namespace = SELECTORS[item["kind"]](item["spec"]), item["metadata"]["namespace"]
                assert any(where == namespace and selector.items() <= labels.items() for where, labels in there), item


SELECTORS: dict[str, Callable[[Object], Object]] = {
    "Service": lambda spec: spec["selector"],
    "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
    "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
    "Deployment": lambda spec: spec["selector"]["matchLabels"],
    "StatefulSet": lambda spec: spec["selector"]["matchLabels"],
}


def test_named_ports_exist() -> None:
    for path in BUILT:
        objects = build(path)
        listening = [
            port
            for _, template in pods(objects)
            for container in containers(template["spec"])
            for port in container.get("ports", [])
        ]
        named = {port["name"] for port in listening}
        numbers = {port["containerPort"] for port in listening}
        # projectcalico/calico issue 8881: the name of a native sidecar's port is not found everywhere
        of_main = {
            port["name"]
            for _, template in pods(objects)
            for container in template["spec"]["containers"]
            for port in container.get("ports", [])
        }
        for item in objects:
            if item["kind"] == "Service":
                assert {port["targetPort"] for port in item["spec"]["ports"]} <= named
            if item["kind"] == "NetworkPolicy":
                ports = [port["port"] for rule in item["spec"]["ingress"] for port in rule["ports"]]
                assert set(ports) <= of_main | numbers


def test_volume_mounts_have_their_volumes() -> None:
    for path in BUILT:
        for name, template in pods(build(path)):
            claims = {"data"} if name == "StatefulSet/nats" else set()
            volumes = {volume["name"] for volume in template["spec"]["volumes"]} | claims
            mounted = [mount for each in containers(template["spec"]) for mount in each.get("volumeMounts", [])]
            assert {mount["name"] for mount in mounted} == volumes, name
            assert not any("subPath" in mount for mount in mounted), "it would never update"


def test_namespaced_objects_name_their_namespace() -> None:
    cluster_wide = {"Namespace", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"}
    for path, item in everything():
        is_cluster_wide = item["kind"] in cluster_wide or item["kind"].startswith("ValidatingAdmissionPolicy")
        assert ("namespace" in item["metadata"]) is not is_cluster_wide, (path, item["kind"])


def test_yaml_files_have_no_duplicate_keys() -> None:
    """kustomize takes the last of two equal keys without a word."""

    class Strict(yaml.SafeLoader):
        pass

    def once(loader: Strict, node: yaml.MappingNode) -> dict[object, object]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
        return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, once)
    files: list[Path] = list(MANIFESTS.rglob("*.yaml"))
    assert files
    for file in files:
        list(yaml.load_all(file.read_text(), Strict))
