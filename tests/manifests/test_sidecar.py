"""The agent as a native sidecar: what it waits for, what waits for it, and what it is given."""

import os
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig, read_config
from agent.workloads.targets import HttpTarget, SignalTarget
from tests.harness.manifests.build import Object, build, one, pods
from tests.harness.paths import MANIFESTS
from tidemark.receipt import PodClass

EXAMPLES = ("examples/nats", "examples/application")
CPU, RSS = "5m", 56  # the budgets: millicores at rest (4), MiB with everything on


@pytest.fixture(params=EXAMPLES)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def template(path: str) -> Object:
    ((_, found),) = pods(build(path))
    return found


def agent_of(template: Object) -> Object:
    (found,) = (each for each in template["spec"]["initContainers"] if each["name"] == "tidemark-agent")
    made: Object = found
    return made


def config_of(template: Object) -> AgentConfig:
    """The container's environment, with what the downward API puts into it, as the agent itself reads it."""
    downward = {"metadata.name": "pod-0", "metadata.uid": "0d1fe6a4-3b6c-4f9e-9a51-1c2f0a3f7f10"}
    environment = {
        entry["name"]: entry["value"] if "value" in entry else downward[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for entry in agent_of(template)["env"]
    }
    return read_config(environment)


def mount_of(container: Object, path: str) -> Object:
    (found,) = (mount for mount in container["volumeMounts"] if path == mount["mountPath"])
    made: Object = found
    return made


def volume_of(template: Object, container: Object, path: str) -> Object:
    name = mount_of(container, path)["name"]
    (found,) = (volume for volume in template["spec"]["volumes"] if volume["name"] == name)
    made: Object = found
    return made


def test_agent_is_a_sidecar_that_starts_before_the_workload(template: Object) -> None:
    agent = agent_of(template)
    assert agent["restartPolicy"] == "Always"
    assert agent["startupProbe"]["httpGet"] == {"path": "/startupz", "port": "tidemark"}
    assert agent["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert agent["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert agent["ports"] == [{"name": "tidemark", "containerPort": 9465}]
    assert config_of(template).listen.port == 9465


def test_volumes_that_may_come_later_are_optional(template: Object) -> None:
    """The kubelet starts no container of a pod whose mounts are missing: the agent would have nobody to wait in it."""
    agent, config = agent_of(template), config_of(template)
    assert config.leaf is not None
    for directory in (config.bundle, config.leaf):
        secret = volume_of(template, agent, str(directory))["secret"]
        assert secret["optional"] is True
        assert secret["defaultMode"] == 0o440, "for the group alone, which is the pod's fsGroup"
    assert volume_of(template, agent, str(config.trust.parent))["configMap"]["optional"] is True


def test_output_directory_is_in_memory_and_read_only_for_the_workload(template: Object) -> None:
    agent, config = agent_of(template), config_of(template)
    volume = volume_of(template, agent, str(config.out))
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Mi"}
    assert "readOnly" not in mount_of(agent, str(config.out))
    (workload,) = template["spec"]["containers"]
    assert mount_of(workload, str(config.out)) == {
        "mountPath": str(config.out),
        "name": volume["name"],
        "readOnly": True,
    }
    assert all(mount.get("readOnly") for mount in agent["volumeMounts"] if mount["mountPath"] != str(config.out))


def test_pod_has_one_group_and_no_container_overrides_its_uid(template: Object) -> None:
    context = template["spec"]["securityContext"]
    assert context["fsGroup"] > 0
    for container in (agent_of(template), *template["spec"]["containers"]):
        assert "runAsUser" not in container["securityContext"], "the pod's uid is everybody's"


def test_process_namespace_is_shared_only_for_signal_targets(template: Object) -> None:
    signals = any(isinstance(target, SignalTarget) for target in config_of(template).targets)
    assert template["spec"].get("shareProcessNamespace", False) is signals


def test_pods_have_the_labels_and_annotations_of_the_agent(template: Object) -> None:
    labels, config = template["metadata"]["labels"], config_of(template)
    assert labels["tidemark.io/agent"] == "true"
    assert labels["tidemark.io/class"] == config.pod_class.value
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(config.listen.port),
        "prometheus.io/path": "/metrics",
    }


def test_agent_resources_are_the_measured_budget(template: Object) -> None:
    resources = agent_of(template)["resources"]
    out = int(volume_of(template, agent_of(template), "/run/tidemark")["emptyDir"]["sizeLimit"].removesuffix("Mi"))
    assert resources["requests"] == {"cpu": CPU, "memory": "64Mi"}
    limit = int(resources["limits"]["memory"].removesuffix("Mi"))
    assert limit >= 1.25 * RSS + out, "what it writes into memory counts as its own"
    assert "cpu" not in resources["limits"], "it would be slowed down in the midst of a reload"


def test_receipts_go_to_the_service_of_the_authority(template: Object) -> None:
    config = config_of(template)
    authority = build("overlays/openbao")
    service = one(authority, "Service", "tidemark-authority")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert config.authority_url == f"https://{host}:{service['spec']['ports'][0]['port']}"
    token = volume_of(template, agent_of(template), str(config.token_file.parent if config.token_file else ""))
    (source,) = token["projected"]["sources"]
    assert config.token_file is not None
    assert source["serviceAccountToken"]["path"] == config.token_file.name


def test_nats_agent_is_required_and_proves_every_port() -> None:
    ((_, template),) = pods(build("examples/nats"))
    config = config_of(template)
    assert config.pod_class is PodClass.REQUIRED
    (target,) = config.targets
    assert isinstance(target, SignalTarget)
    (server,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert [address.port for address in (*target.nats, *target.tls)] == [ports["client"], ports["cluster"]]
    assert target.monitor == f"http://127.0.0.1:{ports['monitor']}"
    assert config.splay == 0, "servers never wait"


def test_application_agent_reloads_over_http_with_splay() -> None:
    ((_, template),) = pods(build("examples/application"))
    config = config_of(template)
    assert config.pod_class is PodClass.APPLICATION
    assert [type(target) for target in config.targets] == [HttpTarget]
    assert config.splay > 0


def test_announcement_component_adds_the_nats_url_and_nothing_else(path: str, tmp_path: Path) -> None:
    """A kustomization of somebody's own, as docs/install.md has it; the rest of the pod is as it was."""
    here = os.path.relpath(MANIFESTS, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{here}/{path}]\ncomponents: [{here}/components/announcement]\n"
    )
    ((_, before),), ((_, after),) = pods(build(path)), pods(build(str(tmp_path)))
    servers = config_of(after).nats_servers
    clients = one(build("examples/nats"), "Service", "nats")["metadata"]
    assert servers == (f"tls://{clients['name']}.{clients['namespace']}.svc.cluster.local:4222",)
    agent = agent_of(after)
    agent["env"] = [entry for entry in agent["env"] if entry["name"] != "TIDEMARK_NATS_URL"]
    assert after == before


def test_nats_pods_wait_for_neither_webhook_nor_peers() -> None:
    """The components add the agent when the manifests are built, and servers find each other before they are ready."""
    objects = build("examples/nats")
    statefulset = one(objects, "StatefulSet", "nats")
    labels: dict[str, Any] = statefulset["spec"]["template"]["metadata"]["labels"]
    assert "tidemark.io/inject" not in labels
    assert statefulset["spec"]["podManagementPolicy"] == "Parallel"
    service = one(objects, "Service", statefulset["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
