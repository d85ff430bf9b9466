"""The sidecar that an injected pod gets: its container, volumes, mounts and targets."""

import pytest

from agent.config import read_config
from tests.harness.kubernetes.admission_reviews import HTTP, NATS, PORT, SIGNAL, Json, container, pod
from tests.harness.kubernetes.injector_pods import environment, injected, sidecar_of


def test_application_of_a_replica_set_gets_the_sidecar() -> None:
    made = injected(pod(HTTP, PORT | {"tidemark.io/leaf-secret": "web-tls", "tidemark.io/splay": "10"}))
    assert made["metadata"]["labels"]["tidemark.io/agent"] == "true"
    assert made["metadata"]["labels"]["tidemark.io/class"] == "application"
    assert made["metadata"]["annotations"]["prometheus.io/port"] == "9465"
    assert environment(made) == {
        "TIDEMARK_BUNDLE": "/etc/tidemark/bundle",
        "TIDEMARK_TRUST": "/etc/tidemark/trust/trust.toml",
        "TIDEMARK_OUT": "/run/tidemark",
        "TIDEMARK_LEAF": "/etc/tidemark/leaf",
        "TIDEMARK_NATS_URL": "tls://nats.nats.svc:4222",
        "TIDEMARK_CLASS": "application",
        "TIDEMARK_TARGETS": "http://127.0.0.1:9000/-/reload",
        "TIDEMARK_LISTEN": "0.0.0.0:9465",
        "TIDEMARK_LOG": "json",
        "TIDEMARK_SPLAY": "10",
        "TIDEMARK_AUTHORITY_URL": "https://tidemark-authority.tidemark.svc:8443",
        "TIDEMARK_AUTHORITY_TOKEN_FILE": "/var/run/secrets/tidemark.io/token",
    }
    fields = {one["name"]: one["valueFrom"] for one in sidecar_of(made)["env"] if "valueFrom" in one}
    assert fields == {
        "TIDEMARK_POD": {"fieldRef": {"fieldPath": "metadata.name"}},
        "TIDEMARK_POD_UID": {"fieldRef": {"fieldPath": "metadata.uid"}},
    }
    assert "shareProcessNamespace" not in made["spec"]


def test_agent_reads_the_injected_environment() -> None:
    """As the kubelet would give them: the agent's own parser finds nothing wrong."""
    for made in (
        pod(HTTP, PORT | {"tidemark.io/leaf-secret": "web-tls", "tidemark.io/splay": "10"}),
        pod(NATS, {"tidemark.io/tls-ports": "6222,7222", "tidemark.io/class": "application"}),
        pod(SIGNAL, {"tidemark.io/process": "haproxy & co", "tidemark.io/signal": "SIGUSR2"}),
    ):
        given = environment(injected(made)) | {"TIDEMARK_POD": "web-0", "TIDEMARK_POD_UID": "1"}
        config = read_config({name: value.replace("$$", "$") for name, value in given.items()})
        assert len(config.targets) == 1


def test_sidecar_starts_first_and_its_probes_hold_the_workload_back() -> None:
    made = pod(HTTP, PORT, initContainers=[container("migrate"), container("proxy", restartPolicy="Always")])
    made = injected(made)
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["tidemark-agent", "migrate", "proxy"]
    agent = sidecar_of(made)
    assert agent["restartPolicy"] == "Always"
    paths = {name: agent[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_sidecar_meets_pod_security_restricted() -> None:
    context = sidecar_of(injected(pod(HTTP, PORT)))["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_volumes_are_in_memory_or_optional_and_read_only_for_the_workload() -> None:
    made = injected(pod(HTTP, PORT | {"tidemark.io/leaf-secret": "web-tls", "tidemark.io/directory": "/var/lib/tls"}))
    volumes = {volume["name"]: volume for volume in made["spec"]["volumes"]}
    assert volumes["tidemark-run"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Mi"}
    assert volumes["tidemark-bundle"]["secret"]["secretName"] == "nats-ca-tls"
    assert volumes["tidemark-leaf"]["secret"]["secretName"] == "web-tls"
    assert all(volumes[f"tidemark-{name}"]["secret"]["optional"] for name in ("bundle", "leaf"))
    assert volumes["tidemark-trust"]["configMap"]["optional"] is True
    (workload,) = made["spec"]["containers"]
    assert workload["volumeMounts"][-1] == {"name": "tidemark-run", "mountPath": "/var/lib/tls", "readOnly": True}
    assert {"name": "tidemark-run", "mountPath": "/var/lib/tls"} in sidecar_of(made)["volumeMounts"]
    assert environment(made)["TIDEMARK_OUT"] == "/var/lib/tls"


def test_sidecar_has_its_own_token_and_not_that_of_the_api_server() -> None:
    """The API server mounts its token wherever nothing is mounted at this path, also after the webhook."""
    made = injected(pod(HTTP, PORT))
    mounts = {mount["mountPath"]: mount["name"] for mount in sidecar_of(made)["volumeMounts"]}
    assert mounts["/var/run/secrets/kubernetes.io/serviceaccount"] == "tidemark-no-api"
    volumes = {volume["name"]: volume for volume in made["spec"]["volumes"]}
    assert "emptyDir" in volumes["tidemark-no-api"]
    (source,) = volumes[mounts["/var/run/secrets/tidemark.io"]]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "tidemark-authority"


def test_nats_mode_signals_and_proves_on_the_ports() -> None:
    made = injected(pod(NATS, {"tidemark.io/tls-ports": "6222, 7222"}, containers=[container("nats")]))
    assert environment(made)["TIDEMARK_TARGETS"] == (
        "signal:?process=nats-server&signal=HUP&monitor=http://127.0.0.1:8222&nats=127.0.0.1:4222"
        "&tls=127.0.0.1:6222&tls=127.0.0.1:7222"
    )
    assert made["spec"]["shareProcessNamespace"] is True
    assert made["metadata"]["labels"]["tidemark.io/class"] == "required"
    assert sidecar_of(made)["securityContext"]["runAsUser"] == 1000


def test_signal_mode_without_proofs() -> None:
    made = injected(pod(SIGNAL, {"tidemark.io/process": "nginx"}))
    assert environment(made)["TIDEMARK_TARGETS"] == "signal:?process=nginx&signal=HUP"
    assert made["spec"]["shareProcessNamespace"] is True


def test_targets_annotation_replaces_the_built_target() -> None:
    targets = "signal:?process=nats-server&monitor=http://127.0.0.1:8222 http://127.0.0.1:9000/-/reload"
    made = injected(pod(NATS, {"tidemark.io/targets": targets}))
    assert environment(made)["TIDEMARK_TARGETS"] == targets
    alone = injected(pod(NATS, {"tidemark.io/targets": "http://127.0.0.1:9000/-/reload"}))
    assert "shareProcessNamespace" not in alone["spec"]


def test_announcements_are_followed_only_with_a_leaf() -> None:
    """The leaf is the login: without one there is none."""
    leaf = PORT | {"tidemark.io/leaf-secret": "web-tls"}
    assert "TIDEMARK_NATS_URL" not in environment(injected(pod(HTTP, PORT)))
    assert "TIDEMARK_NATS_URL" not in environment(injected(pod(HTTP, leaf | {"tidemark.io/nats-url": "none"})))
    own = "tls://a.example.com:4222 tls://b.example.com:4222"
    assert environment(injected(pod(HTTP, leaf | {"tidemark.io/nats-url": own})))["TIDEMARK_NATS_URL"] == own


@pytest.mark.parametrize("target", ["https://127.0.0.1:9000/-/reload?tls_name=web", "nats-sys://127.0.0.1:4222"])
def test_other_kinds_of_targets_are_passed_on(target: str) -> None:
    assert environment(injected(pod(NATS, {"tidemark.io/targets": target})))["TIDEMARK_TARGETS"] == target


def test_dollar_signs_reach_the_agent_unexpanded() -> None:
    made = injected(pod(HTTP, PORT | {"tidemark.io/reload-path": "/reload/$(HOSTNAME)"}))
    assert environment(made)["TIDEMARK_TARGETS"] == "http://127.0.0.1:9000/reload/$$(HOSTNAME)"


@pytest.mark.parametrize(
    ("annotations", "more", "mounted"),
    [
        ({"tidemark.io/container": "web"}, {}, ["web"]),
        ({"tidemark.io/container": "web, setup"}, {}, ["setup", "web"]),
        ({"kubectl.kubernetes.io/default-container": "other"}, {}, ["other"]),
        ({}, {"containers": [container("only")]}, ["only"]),
    ],
)
def test_output_is_mounted_into_the_named_containers(annotations: Json, more: Json, mounted: list[str]) -> None:
    spec = {"containers": [container("web"), container("other")], "initContainers": [container("setup")]} | more
    made = injected(pod(HTTP, PORT | annotations, **spec))
    every = [*made["spec"]["initContainers"][1:], *made["spec"]["containers"]]
    found = [one["name"] for one in every if "tidemark-run" in [mount["name"] for mount in one["volumeMounts"]]]
    assert sorted(found) == sorted(mounted)


def test_container_called_nats_is_the_workload() -> None:
    made = injected(pod(NATS, containers=[container("exporter"), container("nats")]))
    assert "tidemark-run" in [mount["name"] for mount in made["spec"]["containers"][1]["volumeMounts"]]


def test_sidecar_runs_as_the_workloads_user() -> None:
    def who(labels: Json, annotations: Json, own: Json, shared: Json) -> tuple[int, int | None]:
        spec = {"containers": [container("web") | {"securityContext": own}], "securityContext": shared}
        context = sidecar_of(injected(pod(labels, annotations, **spec)))["securityContext"]
        return context["runAsUser"], context.get("runAsGroup")

    assert who(HTTP, PORT, {"runAsUser": 7}, {"runAsUser": 8}) == (7, 0)
    assert who(HTTP, PORT, {}, {"runAsUser": 8, "fsGroup": 9}) == (8, None)
    assert who(HTTP, PORT, {}, {"fsGroup": 9}) == (65532, None)
    assert who(HTTP, PORT, {"runAsUser": 0}, {}) == (65532, 0)
    assert who(HTTP, PORT | {"tidemark.io/uid": "70"}, {}, {}) == (70, 0)
    assert who(HTTP, PORT | {"tidemark.io/uid": "70"}, {"runAsUser": 7}, {"fsGroup": 9}) == (70, None)
    assert who(NATS, {"tidemark.io/uid": "1000"}, {}, {}) == (1000, 0)


def test_class_is_read_from_label_or_annotation() -> None:
    for labels, annotations in (
        (HTTP | {"tidemark.io/class": "required"}, PORT),
        (HTTP, PORT | {"tidemark.io/class": "required"}),
    ):
        made = injected(pod(labels, annotations))
        assert made["metadata"]["labels"]["tidemark.io/class"] == "required"
        assert environment(made)["TIDEMARK_CLASS"] == "required"


def test_scrape_annotations_of_the_workload_are_unchanged() -> None:
    own = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    annotations = injected(pod(HTTP, PORT | own))["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "8080"
    assert "prometheus.io/path" not in annotations
