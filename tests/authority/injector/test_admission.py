"""The injector's decision: what a pod gets, what is refused, and with which words."""

import json

import pytest

from authority.injector.admission import ReviewError, decide
from tests.harness.kubernetes.admission_reviews import HTTP, NATS, PORT, SIGNAL, Json, container, pod, review
from tests.harness.kubernetes.injector_pods import SETTINGS, decision, injected


def refusal(made: Json) -> str:
    response = decision(made).response()["response"]
    assert response["allowed"] is False
    assert "patch" not in response
    assert (response["status"]["code"], response["status"]["reason"]) == (422, "Invalid")
    return str(response["status"]["message"])


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
    faults = refusal(pod(HTTP, {"tidemark.io/uid": "x", "tidemark.io/splay": "x", "tidemark.io/reload-port": "x"}))
    assert len(faults.split("; ")) == 3


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
