"""The injector's decision: what a pod gets, what is refused, and with which words."""

import json

import pytest

from agent.config import read_config
from authority.injector.admission import ReviewError, decide
from tests.harness.kubernetes.admission_reviews import Json, container, pod, review
from tests.harness.kubernetes.injector_pods import SETTINGS, decision, environment, injected, sidecar_of

HTTP = {"tidemark.io/inject": "http"}

NATS = {"tidemark.io/inject": "nats"}

SIGNAL = {"tidemark.io/inject": "signal"}

PORT = {"tidemark.io/reload-port": "9000"}


def refusal(made: Json) -> str:
    response = decision(made).response()["response"]
    assert response["allowed"] is False
    assert "patch" not in response
    assert (response["status"]["code"], response["status"]["reason"]) == (422, "Invalid")
    return str(response["status"]["message"])


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


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            pod({"tidemark.io/inject": "yes"}),
            "label tidemark.io/inject: expected one of nats, http, signal, found 'yes'",
        ),
        (pod(HTTP), "tidemark.io/reload-port: expected a number from 1 to 65535, found nothing"),
        (pod(HTTP, {"tidemark.io/reload-prot": "9"}), "did you mean tidemark.io/reload-port?"),
        (
            pod(HTTP, PORT | {"tidemark.io/monitor-port": "8222"}),
            "annotation tidemark.io/monitor-port: expected one that",
        ),
        (pod(HTTP | {"tidemark.io/clas": "required"}, PORT), "label tidemark.io/clas: expected tidemark.io/inject or"),
        (pod(HTTP, PORT | {"tidemark.io/class": "must"}), "tidemark.io/class: expected one of required, application"),
        (
            pod(HTTP | {"tidemark.io/class": "required"}, PORT | {"tidemark.io/class": "application"}),
            "tidemark.io/class: expected 'required', as label tidemark.io/class has it, found 'application'",
        ),
        (
            pod(HTTP, PORT | {"tidemark.io/container": "wbe"}),
            "tidemark.io/container: expected a container of the pod (web), found 'wbe'",
        ),
        (
            pod(HTTP, PORT, containers=[container("a"), container("b")]),
            "tidemark.io/container: expected the name of one of a, b, found no annotation",
        ),
        (pod(HTTP, PORT | {"tidemark.io/directory": "run"}), "tidemark.io/directory: expected an absolute path"),
        (
            pod(HTTP, PORT | {"tidemark.io/directory": "/run/../etc"}),
            "tidemark.io/directory: expected an absolute path",
        ),
        (pod(HTTP, PORT | {"tidemark.io/directory": "/etc"}), "expected one that does not touch /etc/tidemark, found"),
        (
            pod(HTTP, PORT | {"tidemark.io/leaf-secret": "Web"}),
            "tidemark.io/leaf-secret: expected the name of a Secret",
        ),
        (pod(HTTP, PORT | {"tidemark.io/uid": "0"}), "tidemark.io/uid: expected a number from 1 to"),
        (
            pod(HTTP, PORT | {"tidemark.io/splay": "1h"}),
            "tidemark.io/splay: expected a number from 0 to 3600, found '1h'",
        ),
        (pod(NATS, {"tidemark.io/nats-ports": "4222 4223"}), "tidemark.io/nats-ports: expected ports with commas"),
        (pod(NATS, {"tidemark.io/monitor-port": "70000"}), "tidemark.io/monitor-port: expected a port, or 'none'"),
        (pod(SIGNAL), "tidemark.io/process: expected the name of the process that is signalled"),
        (pod(SIGNAL, {"tidemark.io/process": "x", "tidemark.io/signal": "KILL"}), "expected one of HUP, USR1, USR2"),
        (pod(NATS, {"tidemark.io/targets": "exec:kill"}), "tidemark.io/targets: expected targets such as http://"),
        (
            pod(NATS, {"tidemark.io/targets": "signal:?pidfile=/x"}),
            "no pidfile=, since the sidecar does not see the workload's files",
        ),
        (
            pod(HTTP, {"tidemark.io/targets": "signal:?process=x"}),
            "expected no signal where tidemark.io/inject is http",
        ),
        (
            pod(NATS, {"tidemark.io/targets": "http://127.0.0.1:1/", "tidemark.io/monitor-port": "1"}),
            "tidemark.io/monitor-port: expected nothing here where tidemark.io/targets says it all, found '1'",
        ),
        (
            pod(NATS, {"tidemark.io/uid": "2000"}),
            "expected 1000, the user of container web, since only the same user may signal it, found 2000",
        ),
        (
            pod(NATS, containers=[container("nats", securityContext={})]),
            "container nats: expected runAsUser, or its user's number in tidemark.io/uid",
        ),
        (
            pod(NATS, containers=[container("nats", securityContext={"runAsUser": 0})]),
            "container nats: expected a user other than root",
        ),
        (
            pod(HTTP, PORT | {"tidemark.io/uid": "2000"}),
            "or an fsGroup by which both share files, found 2000 and no fsGroup",
        ),
        (
            pod(HTTP, PORT, containers=[container("web", securityContext={})]),
            "container web: expected runAsUser, its user's number in tidemark.io/uid, or an fsGroup of the pod",
        ),
        (pod(NATS, hostPID=True), "spec.hostPID: expected false"),
        (pod(NATS, shareProcessNamespace=False), "spec.shareProcessNamespace: expected true"),
        (pod(HTTP, PORT, os={"name": "windows"}), "spec.os: expected Linux, found windows"),
        (
            pod(HTTP, PORT, volumes=[{"name": "tidemark-run", "emptyDir": {}}]),
            "volume tidemark-run: expected this name to be free for the sidecar, found it; rename the volume",
        ),
        (
            pod(HTTP, PORT, initContainers=[container("tidemark-agent")]),
            "container tidemark-agent: expected none of this name beside label tidemark.io/inject, found one",
        ),
        (
            pod(HTTP, PORT, containers=[container("web", ports=[{"containerPort": 9465}])]),
            "container web: expected port 9465 to be free for the sidecar, found it there",
        ),
        (
            pod(
                HTTP, PORT, containers=[container("web", volumeMounts=[{"name": "x", "mountPath": "/run/tidemark/x"}])]
            ),
            "container web: expected nothing mounted at or below /run/tidemark (tidemark.io/directory), found x at",
        ),
    ],
)
def test_pod_that_cannot_work_is_refused_with_a_sentence(made: Json, words: str) -> None:
    assert words in refusal(made)


@pytest.mark.parametrize(
    "volume",
    [
        {"secret": {"secretName": "nats-ca-tls"}},
        {"projected": {"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "nats-ca-tls"}}]}},
    ],
)
@pytest.mark.parametrize("path", [{"subPath": "ca.crt"}, {"subPathExpr": "$(NAME)"}])
def test_sub_path_of_the_bundle_is_refused(volume: Json, path: Json) -> None:
    mount = {"name": "ca", "mountPath": "/etc/nats/ca.crt"} | path
    volumes = [{"name": "ca"} | volume]
    assert refusal(pod(HTTP, PORT, containers=[container("web", volumeMounts=[mount])], volumes=volumes)) == (
        "container web: expected Secret nats-ca-tls to be mounted whole, found a subPath at /etc/nats/ca.crt: it would "
        "never change; read /run/tidemark in its place"
    )


def test_workload_that_mounts_the_unverified_bundle_gets_a_warning() -> None:
    mount, volume = {"name": "ca", "mountPath": "/etc/ca"}, {"name": "ca", "secret": {"secretName": "nats-ca-tls"}}
    spec = {"containers": [container("web", volumeMounts=[mount])], "volumes": pod({})["spec"]["volumes"] + [volume]}
    response = decision(pod(HTTP, PORT, **spec)).response()["response"]
    assert response["warnings"] == [
        "container web mounts Secret nats-ca-tls itself: what it reads there is not verified"
    ]


def test_every_fault_of_a_pod_is_reported_at_once() -> None:
    told = refusal(pod(HTTP, {"tidemark.io/uid": "x", "tidemark.io/splay": "x", "tidemark.io/reload-port": "x"}))
    assert len(told.split("; ")) == 3


@pytest.mark.parametrize(
    "request_",
    [{"operation": "UPDATE"}, {"operation": "DELETE", "object": None}, {"subResource": "ephemeralcontainers"}],
)
def test_requests_other_than_creation_are_admitted(request_: Json) -> None:
    made = decision(pod(NATS, {"tidemark.io/typo": "x"}), **request_)
    assert made.response()["response"] == {"uid": made.uid, "allowed": True}


def test_pod_without_the_label_is_admitted() -> None:
    assert decision(pod({"app": "x"}, {"tidemark.io/typo": "x"})).patch == ()


def test_dry_run_gets_the_same_answer() -> None:
    assert decision(pod(HTTP, PORT), dryRun=True).patch == decision(pod(HTTP, PORT)).patch


def test_decision_names_the_pod_by_its_own_name() -> None:
    made = pod(HTTP, PORT)
    assert decision(made).pod == "shop/web-5d59d67564-"
    del made["metadata"]["generateName"]
    made["metadata"]["name"] = "web-0"
    assert decision(made).pod == "shop/web-0"


def test_injected_pod_is_left_alone_after_changes_by_others() -> None:
    """Another webhook puts a container of its own first, and the API server its token and defaults into ours."""
    made = injected(pod(HTTP, PORT))
    assert decision(made).patch == ()
    made["spec"]["initContainers"].insert(0, container("istio-init"))
    made["spec"]["initContainers"][1]["terminationMessagePath"] = "/dev/termination-log"
    made["spec"]["containers"].append(container("istio-proxy"))
    again = decision(made)
    assert again.response()["response"] == {"uid": again.uid, "allowed": True}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected an AdmissionReview in JSON"),
        (b"\xff", "expected an AdmissionReview in JSON"),
        (b"[]", "expected an AdmissionReview of admission.k8s.io/v1"),
        (json.dumps({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}).encode(), "found another"),
        (
            json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).encode(),
            "request: expected one",
        ),
        (review({}, kind={"group": "apps", "version": "v1", "kind": "Deployment"}), "request.kind: expected Pod of v1"),
        (review({"metadata": {"labels": HTTP}, "spec": {"containers": 5}}), "expected a pod in an AdmissionReview"),
        (review({"metadata": {"labels": HTTP}}), "expected a pod in an AdmissionReview"),
    ],
)
def test_request_that_is_no_pod_review_is_an_error(body: bytes, words: str) -> None:
    with pytest.raises(ReviewError) as raised:
        decide(body, SETTINGS)
    assert words in str(raised.value)
