"""Generated pods with any mix of containers, sidecars, volumes, mounts and annotations."""

from typing import Any

from hypothesis import strategies as st

from authority.injector.admission import AdmissionDecision, decide
from authority.injector.sidecar import SidecarSettings
from tests.harness.kubernetes.admission_reviews import admitted, check_valid, review

Json = dict[str, Any]

NAMES: st.SearchStrategy[str] = st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)

OURS = ("tidemark-run", "tidemark-bundle", "tidemark-agent", "nats", "istio-proxy")

PATHS = ("/data", "/etc/nats", "/run", "/scratch", "/var/lib/x")

AWKWARD_PATHS = (*PATHS, "/run/tidemark", "/run/tidemark/x", "/etc/tidemark")

UIDS = (0, 1, 1000, 2000, 65532)

_SOURCES: st.SearchStrategy[Json] = st.one_of(
    st.just({"emptyDir": {}}),
    st.sampled_from(["nats-ca-tls", "web-tls", "other"]).map(lambda name: {"secret": {"secretName": name}}),
    st.just({"configMap": {"name": "web", "optional": True}}),
    st.sampled_from(["nats-ca-tls", "other"]).map(
        lambda name: {"projected": {"sources": [{"secret": {"name": name}}, {"configMap": {"name": "x"}}]}}
    ),
    st.just({"persistentVolumeClaim": {"claimName": "data"}}),
)


def _present(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=values)


@st.composite
def _containers(draw: st.DrawFn, volumes: list[str], names: list[str], awkward: bool) -> list[Json]:
    made = []
    for name in names:
        one: Json = {"name": name, "image": "example.com/x:1"}
        mounted = draw(st.lists(st.sampled_from(volumes), max_size=3)) if volumes else []
        paths = draw(
            st.lists(
                st.sampled_from(AWKWARD_PATHS if awkward else PATHS),
                min_size=len(mounted),
                max_size=len(mounted),
                unique=True,
            )
        )
        more = [{}, {"readOnly": True}, *([{"subPath": "ca.crt"}] if awkward else [])]
        mounts: list[Json] = [
            {"name": volume, "mountPath": path} | draw(st.sampled_from(more))
            for volume, path in zip(mounted, paths, strict=True)
        ]
        one |= draw(
            _present(
                {
                    "volumeMounts": st.just(mounts),
                    "securityContext": _present(
                        {"runAsUser": st.sampled_from(UIDS if awkward else [1000]), "runAsNonRoot": st.booleans()}
                    ),
                    "env": st.just([{"name": "TIDEMARK_LOG", "value": "text"}]),
                    "ports": st.just([{"containerPort": 9465 if awkward else 8080, "name": "http"}]),
                }
            )
        )
        made.append(one)
    return made


@st.composite
def _annotations(draw: st.DrawFn, mode: str, names: list[str], awkward: bool) -> dict[str, str]:
    values: dict[str, st.SearchStrategy[Any]] = {
        "tidemark.io/directory": st.sampled_from(("/run/x y", *AWKWARD_PATHS) if awkward else ("/run/tls", "/opt/tls")),
        "tidemark.io/leaf-secret": st.sampled_from(["web-tls", "Bad"] if awkward else ["web-tls"]),
        "tidemark.io/splay": st.integers(0, 3601 if awkward else 3600).map(str),
        "prometheus.io/scrape": st.just("true"),
        "example.com/with~tilde": st.text(max_size=5),
    }
    if awkward:
        values["tidemark.io/uid"] = st.sampled_from(UIDS).map(str)
        values["tidemark.io/class"] = st.sampled_from(["required", "application", "other"])
    if mode != "http":
        values["tidemark.io/tls-ports"] = st.sampled_from(["6222", "6222,7222", "none", *(["x"] if awkward else [])])
    certain = {"tidemark.io/container": ",".join(draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))}
    if mode == "http":
        certain["tidemark.io/reload-port"] = "9000"
    if mode == "signal":
        certain["tidemark.io/process"] = draw(st.text("abc &=%+'$()", min_size=1, max_size=8).filter(str.strip))
    return dict(draw(_present(values))) | certain


@st.composite
def pods(draw: st.DrawFn, *, awkward: bool) -> Json:
    """Valid pods with the label. Without ``awkward`` each of them can be injected."""
    names_of = st.one_of(NAMES, st.sampled_from(OURS)) if awkward else NAMES
    names: list[str] = draw(st.lists(names_of, min_size=1, max_size=5, unique=True))
    first = draw(st.integers(0, len(names) - 1))
    volumes: list[str] = draw(st.lists(names_of, max_size=4, unique=True))
    mode = draw(st.sampled_from(["nats", "http", "signal"]))
    metadata: Json = {
        "generateName": "web-",
        "labels": {"tidemark.io/inject": mode, "app": "web"}
        | draw(_present({"tidemark.io/class": st.sampled_from(["required", "application"])})),
        "annotations": draw(_annotations(mode, names, awkward)),
    }
    initial = draw(_containers(volumes, names[:first], awkward))
    for one in initial:
        one |= draw(_present({"restartPolicy": st.just("Always")}))  # noqa: PLW2901 - the list's own
    security: Json = draw(_present({"fsGroup": st.just(5)})) | ({} if awkward else {"runAsUser": 1000})
    spec: Json = {
        "containers": draw(_containers(volumes, names[first:], awkward)),
        "securityContext": security,
        "volumes": [{"name": name} | draw(_SOURCES) for name in volumes],
    } | ({"initContainers": initial} if initial else {})
    spec |= draw(st.sampled_from([{}, {"shareProcessNamespace": True}, *([{"hostPID": True}] if awkward else [])]))
    if not volumes:
        del spec["volumes"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


SETTINGS = SidecarSettings(
    image="tidemark-agent:0.1.0",
    pull_policy="",
    authority_url="https://tidemark-authority.tidemark.svc:8443",
    audience="tidemark-authority",
    nats_url="tls://nats.nats.svc:4222",
    bundle_secret="nats-ca-tls",
    trust_config_map="tidemark-trust",
    directory="/run/tidemark",
    uid=65532,
    cpu="5m",
    cpu_limit="",
    memory="64Mi",
    memory_limit="96Mi",
)


def injected(made: Json) -> Json:
    result = admitted(made, decision(made).response())
    check_valid(result)
    return result


def environment(made: Json) -> dict[str, str]:
    return {one["name"]: one["value"] for one in sidecar_of(made)["env"] if "value" in one}


def decision(made: Json, **request: Any) -> AdmissionDecision:
    return decide(review(made, **request), SETTINGS)


def sidecar_of(made: Json) -> Json:
    found: Json = made["spec"]["initContainers"][0]
    assert found["name"] == "tidemark-agent"
    return found
