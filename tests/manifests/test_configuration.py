"""What the ConfigMaps hold is what the programs take: nats-server, the authority, and the names between them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest

from authority.config.kubernetes import SecretName
from authority.config.load import AuthorityConfig, parse
from tests.harness.agent.mounts import bundle_files, leaf_files
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.documents.markdown import fenced, section
from tests.harness.manifests.build import Object, build, one, pods
from tests.harness.manifests.rights import granted
from tests.harness.paths import MANIFESTS, NATS_SERVER

OVERLAYS = ("overlays/openbao", "overlays/embedded")
SECONDS = 1_800_000_000
IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}


def authority_toml(overlay: str) -> str:
    (text,) = one(build(overlay), "ConfigMap", "tidemark-authority-config")["data"].values()
    return str(text)


def authority_config(overlay: str) -> AuthorityConfig:
    return parse(authority_toml(overlay).encode(), overlay, Path("/etc/tidemark"), IN_A_POD)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "base/authority"])
def test_check_config_accepts_the_configuration_of_the_overlay(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "authority.toml"
    file.write_text(authority_toml(overlay))
    command = [sys.executable, "-m", "authority", "--config", str(file), "check-config"]
    environment = {"PATH": os.environ["PATH"], **IN_A_POD}
    done = subprocess.run(
        command, env=environment, cwd=MANIFESTS.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("good: trust domain bus.example.com; epochs of 21600 s")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_path_in_the_configuration_is_mounted(overlay: str) -> None:
    ((_, template),) = pods(build(overlay))
    (container,) = template["spec"]["containers"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    config = authority_config(overlay)
    assert mounts[str(config.state)] is False, "state is written"
    read = [PurePosixPath(entry["value"]) for entry in container["env"] if entry["name"].endswith("_CONFIG")]
    assert read
    values = tomllib.loads(authority_toml(overlay)).get("openbao", {})
    for path in [*read, *(PurePosixPath(values[key]) for key in ("ca_file", "jwt_file") if key in values)]:
        assert str(path.parent) in mounts, path


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_api_listens_on_the_port_of_service_and_probes(overlay: str) -> None:
    objects, config = build(overlay), authority_config(overlay)
    service = one(objects, "Service", "tidemark-authority")
    ((_, template),) = pods(objects)
    (container,) = template["spec"]["containers"]
    (port,) = (port for port in container["ports"] if port["name"] == service["spec"]["ports"][0]["targetPort"])
    assert (config.api.listen.host, config.api.listen.port) == ("0.0.0.0", port["containerPort"])  # noqa: S104
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert config.api.names[0] == host
    assert "localhost" in config.api.names, "for kubectl port-forward"


def test_first_part_of_the_openbao_configuration_serves_for_set_up() -> None:
    """As docs/install.md says: up to [api], with a state directory of the operator's machine, outside of any pod."""
    text, api, _ = authority_toml("overlays/openbao").partition("[api]")
    assert api
    text = text.replace('state = "/var/lib/tidemark"', 'state = "state"')
    config = parse(text.encode(), "setup.toml", Path("/home/operator"), {})
    assert config.state == Path("/home/operator/state")
    assert config.openbao is not None
    assert config.kubernetes is None
    assert config.injector is None
    in_the_pod = authority_config("overlays/openbao").openbao
    assert in_the_pod is not None
    assert config.openbao.layout == in_the_pod.layout


def test_openbao_overlay_has_two_replicas_and_embedded_one() -> None:
    """Two where nothing is kept in the pod; one, which lets go of its volume first, where everything is."""
    openbao = one(build("overlays/openbao"), "Deployment", "tidemark-authority")["spec"]
    assert openbao["replicas"] == 2
    assert authority_config("overlays/openbao").openbao is not None
    embedded = one(build("overlays/embedded"), "Deployment", "tidemark-authority")["spec"]
    assert embedded["replicas"] == 1
    assert embedded["strategy"] == {"type": "Recreate"}
    assert authority_config("overlays/embedded").openbao is None
    (state,) = (volume for volume in embedded["template"]["spec"]["volumes"] if volume["name"] == "state")
    assert state == {"name": "state", "persistentVolumeClaim": {"claimName": "tidemark-authority-state"}}


def nats_conf(tmp_path: Path) -> Path:
    """The example's nats.conf, with the mounts of its pod under a folder."""
    (text,) = one(build("examples/nats"), "ConfigMap", "nats-config")["data"].values()
    for mount in ("/run/tidemark", "/run/nats", "/data"):
        (tmp_path / mount[1:]).mkdir(parents=True)
        assert f"{mount}" in text
        text = text.replace(mount, str(tmp_path / mount[1:]))
    file = tmp_path / "nats.conf"
    file.write_text(text)
    return file


def check(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(NATS_SERVER), "-t", "-c", str(config)]
    environment = {"PATH": os.environ["PATH"], "POD_NAME": "nats-0"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_nats_server_accepts_its_configuration_once_the_agent_wrote_a_set(tmp_path: Path) -> None:
    config, factory = nats_conf(tmp_path), BundleFactory(SECONDS)
    assert check(config).returncode != 0, "without the files it does not start, and so waits for the agent"
    for name, content in (bundle_files(factory.bundle(1)) | leaf_files(factory.leaf())).items():
        (tmp_path / "run/tidemark" / name).write_bytes(content)
    done = check(config)
    assert done.returncode == 0, done.stderr
    assert "configuration file" in done.stderr + done.stdout


def test_nats_routes_are_the_pods_of_the_stateful_set() -> None:
    objects = build("examples/nats")
    statefulset: Object = one(objects, "StatefulSet", "nats")
    (text,) = one(objects, "ConfigMap", "nats-config")["data"].values()
    names = statefulset["metadata"]["name"], statefulset["spec"]["serviceName"], statefulset["metadata"]["namespace"]
    for number in range(statefulset["spec"]["replicas"]):
        assert f"nats://{names[0]}-{number}.{names[1]}.{names[2]}.svc.cluster.local:6222" in text
    assert text.count("nats://") == statefulset["spec"]["replicas"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_configured_namespaces_grant_the_rights_for_fleet_and_leaves(overlay: str) -> None:
    config, objects = authority_config(overlay), build("examples/nats")
    assert config.kubernetes is not None
    given = {(right.namespace, right.resource, right.verb, right.name) for right in granted(objects)}
    for namespace in config.kubernetes.fleet:
        assert {(namespace, "pods", verb, "*") for verb in ("list", "watch")} <= given
    for leaf in config.leaves:
        assert isinstance(leaf.place, SecretName)
        assert {(leaf.place.namespace, "secrets", verb, leaf.place.name) for verb in ("get", "patch")} <= given
    (metadata,) = (item["metadata"] for item in objects if item["kind"] == "Namespace")
    assert metadata["name"] in config.kubernetes.fleet
    assert metadata["labels"]["tidemark.io/bundle"] == "enabled"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nudge_is_configured_exactly_where_its_right_is_granted(overlay: str) -> None:
    config = authority_config(overlay)
    assert config.kubernetes is not None
    has_right = any((right.resource, right.verb) == ("pods", "patch") for right in granted(build(overlay)))
    assert config.kubernetes.nudge is has_right


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_leaf_of_the_servers_has_every_host_name_of_a_client(overlay: str) -> None:
    (leaf,) = authority_config(overlay).leaves
    assert leaf.place == SecretName("nats", "nats-server-tls")
    objects = build("examples/nats")
    (text,) = one(objects, "ConfigMap", "nats-config")["data"].values()
    routes = re.findall(r"nats://nats-\d\.([^:]+):", text)
    clients = one(objects, "Service", "nats")["metadata"]
    assert {f"*.{route}" for route in routes} <= set(leaf.dns)
    assert f"{clients['name']}.{clients['namespace']}.svc.cluster.local" in leaf.dns
    application = one(build("examples/application"), "Deployment", "orders")
    (container,) = application["spec"]["template"]["spec"]["containers"]
    (url,) = (entry["value"] for entry in container["env"] if entry["name"] == "NATS_URL")
    assert urlsplit(url).hostname in leaf.dns
    assert "127.0.0.1" in leaf.ip, "the agent proves the leaf there"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_commented_jetstream_section_parses_when_enabled(overlay: str) -> None:
    lines = authority_toml(overlay).splitlines()
    start = lines.index("# [publish.jetstream]")
    for number in range(start, lines.index("", start)):
        lines[number] = lines[number].removeprefix("# ")
    config = parse("\n".join(lines).encode(), overlay, Path("/etc/tidemark"), IN_A_POD)
    assert config.jetstream is not None
    (leaf,) = config.leaves
    assert {urlsplit(server).hostname for server in config.jetstream.servers} <= set(leaf.dns)
    assert config.jetstream.directory.is_relative_to(config.state), "where the pod may write"


def test_commented_cert_manager_section_has_its_rights_when_enabled() -> None:
    lines = authority_toml("overlays/openbao").splitlines()
    start = lines.index("# [kubernetes.cert_manager]")
    for number in range(start, lines.index("", start)):
        lines[number] = lines[number].removeprefix("# ")
    config = parse("\n".join(lines).encode(), "authority.toml", Path("/etc/tidemark"), IN_A_POD)
    assert config.kubernetes is not None
    assert config.kubernetes.cert_manager is not None
    given = {(right.namespace, right.resource, right.verb) for right in granted(build("examples/cert-manager"))}
    for namespace in config.kubernetes.cert_manager.namespaces:
        assert {(namespace, "certificates", "list"), (namespace, "certificates/status", "patch")} <= given


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_monitoring_urls_of_the_authority_reach_every_server(overlay: str) -> None:
    objects = build("examples/nats")
    statefulset = one(objects, "StatefulSet", "nats")
    (server,) = statefulset["spec"]["template"]["spec"]["containers"]
    (port,) = (each["containerPort"] for each in server["ports"] if each["name"] == "monitor")
    service, namespace = statefulset["spec"]["serviceName"], statefulset["metadata"]["namespace"]
    assert authority_config(overlay).withdrawal.monitors == tuple(
        f"http://nats-{number}.{service}.{namespace}.svc.cluster.local:{port}"
        for number in range(statefulset["spec"]["replicas"])
    )
    egress = one(build(overlay), "NetworkPolicy", "tidemark-authority")["spec"]["egress"]
    assert port in [each["port"] for rule in egress for each in rule["ports"]]
    ingress = one(objects, "NetworkPolicy", "nats")["spec"]["ingress"]
    (asking,) = (rule["from"] for rule in ingress if {"port": "monitor"} in rule["ports"])
    assert asking[0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "tidemark-authority"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_documented_application_entries_parse_and_have_their_rights(overlay: str) -> None:
    """docs/install.md, "An application": what it adds is taken, and the example's namespace gives what it takes."""
    (block,) = fenced(section("install.md", "An application"), "toml")
    added = tomllib.loads(block)
    text = authority_toml(overlay).replace('fleet = ["nats"]', f"fleet = {added['kubernetes']['fleet']}")
    text += block[block.index("[[leaves]]") :]
    config = parse(text.encode(), overlay, Path("/etc/tidemark"), IN_A_POD)
    assert config.kubernetes is not None
    objects = [*build("examples/nats"), *build("examples/application")]
    given = {(right.namespace, right.resource, right.verb, right.name) for right in granted(objects)}
    for namespace in config.kubernetes.fleet:
        assert {(namespace, "pods", verb, "*") for verb in ("list", "watch")} <= given
    for leaf in config.leaves:
        assert isinstance(leaf.place, SecretName)
        assert {(leaf.place.namespace, "secrets", verb, leaf.place.name) for verb in ("get", "patch")} <= given
    ((_, template),) = pods(build("examples/application"))
    mounted = {volume["secret"]["secretName"] for volume in template["spec"]["volumes"] if "secret" in volume}
    assert str(config.leaves[-1].place).partition("/")[2] in mounted
