"""The mutating admission webhook that adds the agent to a pod: takes an AdmissionReview, returns the answer; pure.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/. An injected pod carries an
annotation and is left alone when the API server calls again (``reinvocationPolicy: IfNeeded``), and so is a copy of it.
Other sidecars stay where they are. A pod whose sidecar could not work is refused with a sentence for its author.
"""

import base64
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from authority.injector import sidecar
from authority.injector.annotations import (
    AGENT,
    CLASS,
    INJECT,
    INJECTED,
    PREFIX,
    InjectionRefused,
    InjectionRequest,
    SidecarMode,
    read_injection_request,
)
from authority.injector.sidecar import Json, SidecarIdentity, SidecarSettings

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"

NATS_CONTAINER = "nats"
"""The workload's container, where a pod has several containers and names none."""

_SCRAPED = "prometheus.io/scrape"
_INVALID = 422


class ReviewError(ValueError):
    """The request is not an AdmissionReview of a pod; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """The decision about one pod."""

    uid: str
    """The request's."""
    pod: str
    """The pod for people: ``namespace/name``, or the beginning of its future name."""
    refusal: str = ""
    """Why the pod is refused; "" where it is admitted."""
    patch: tuple[Json, ...] = ()
    """A JSON Patch (RFC 6902), empty where nothing is added."""
    warnings: tuple[str, ...] = ()

    def response(self) -> Json:
        """The AdmissionReview that answers the request."""
        answer: Json = {"uid": self.uid, "allowed": not self.refusal}
        if self.refusal:
            answer["status"] = {"code": _INVALID, "reason": "Invalid", "message": self.refusal}
        if self.patch:
            answer["patchType"] = "JSONPatch"
            answer["patch"] = base64.b64encode(json.dumps(self.patch).encode()).decode()
        if self.warnings:
            answer["warnings"] = list(self.warnings)
        return {"apiVersion": API_VERSION, "kind": KIND, "response": answer}


def decide(review: bytes, settings: SidecarSettings) -> AdmissionDecision:
    """Decide on one AdmissionReview.

    Raises:
        ReviewError: ``review`` is not what an API server sends.
    """
    try:
        request = _request(review)
        metadata = request["object"].get("metadata") or {}
        name = metadata.get("name") or metadata.get("generateName") or "?"
        undecided = AdmissionDecision(request["uid"], f"{request.get('namespace') or '?'}/{name}")
        if request.get("operation") != "CREATE" or request.get("subResource"):
            return undecided
        return _of_pod(undecided, request["object"], settings)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ReviewError(f"expected a pod in an AdmissionReview, found {type(error).__name__}: {error}") from None


def _request(review: bytes) -> Json:
    try:
        values = json.loads(review)
    except ValueError as error:
        raise ReviewError(f"expected an AdmissionReview in JSON, found {error}") from None
    if not isinstance(values, dict) or (values.get("apiVersion"), values.get("kind")) != (API_VERSION, KIND):
        raise ReviewError(f"expected an {KIND} of {API_VERSION}, found another object")
    request = values.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise ReviewError("request: expected one with a uid, found none")
    kind = request.get("kind")
    if not isinstance(kind, dict) or (kind.get("group"), kind.get("version"), kind.get("kind")) != ("", "v1", "Pod"):
        raise ReviewError(f"request.kind: expected Pod of v1, found {kind!r}")
    if not isinstance(request.get("object"), dict):  # as of a DELETE
        request["object"] = {}
    return request


def _of_pod(undecided: AdmissionDecision, pod: Json, settings: SidecarSettings) -> AdmissionDecision:
    labels, annotations = (pod["metadata"].get(key) or {} for key in ("labels", "annotations"))
    if INJECT not in labels:
        return undecided
    names = [container["name"] for _, container in _containers(pod)]
    if INJECTED in annotations and sidecar.CONTAINER in names:
        return undecided
    try:
        request = read_injection_request(labels, annotations, settings.directory)
        request = replace(request, containers=_workload(pod, request))
    except InjectionRefused as error:
        return replace(undecided, refusal=str(error))
    users = _Users.of(pod, request)
    faults = [
        *_clashes(pod, request),
        *_secrets(pod, request, settings),
        *_process_namespace(pod, request),
        *(users.unlike(request) if request.signals else users.unreadable(request)),
    ]
    if faults:
        return replace(undecided, refusal=str(InjectionRefused(faults)))
    identity = users.identity(request, settings)
    patch = [*_mounts(pod, request), *_spec(pod, request, settings, identity), *_metadata(pod, request)]
    return replace(undecided, patch=tuple(patch), warnings=tuple(_warnings(pod, settings)))


def _containers(pod: Json) -> Iterator[tuple[str, Json]]:
    """Every container with its path in the pod, in the order in which containers start."""
    for key in ("initContainers", "containers"):
        for index, container in enumerate(pod["spec"].get(key) or []):
            yield f"/spec/{key}/{index}", container


def _workload(pod: Json, request: InjectionRequest) -> tuple[str, ...]:
    """The containers that get the output. Raises InjectionRefused where they do not exist, or the pod must name one."""
    every = [container["name"] for _, container in _containers(pod)]
    if missing := [name for name in request.containers if name not in every]:
        raise InjectionRefused(
            f"{PREFIX}container: expected a container of the pod ({', '.join(every)}), found {name!r}"
            for name in missing
        )
    if request.containers:
        return request.containers
    main = [container["name"] for container in pod["spec"].get("containers") or []]
    if len(main) == 1:
        return (main[0],)
    if request.mode is SidecarMode.NATS and NATS_CONTAINER in main:
        return (NATS_CONTAINER,)
    raise InjectionRefused(
        [f"{PREFIX}container: expected the name of one of {', '.join(main) or 'none'}, found no annotation"]
    )


def _clashes(pod: Json, request: InjectionRequest) -> Iterator[str]:
    """Names, ports and paths of the sidecar that the pod uses already."""
    for volume in pod["spec"].get("volumes") or []:
        if volume["name"] in sidecar.VOLUMES:
            yield f"volume {volume['name']}: expected this name to be free for the sidecar, found it; rename the volume"
    for path in sidecar.RESERVED:
        if _within(request.directory, path) or _within(path, request.directory):
            yield f"{PREFIX}directory: expected one that does not touch {path}, found {request.directory!r}"
    for _, container in _containers(pod):
        name = container["name"]
        if name == sidecar.CONTAINER:
            yield f"container {name}: expected none of this name beside label {INJECT}, found one; take one away"
        for port in container.get("ports") or []:
            if port.get("containerPort") == sidecar.PORT:
                yield f"container {name}: expected port {sidecar.PORT} to be free for the sidecar, found it there"
        if name in request.containers:
            for mount in container.get("volumeMounts") or []:
                if _within(mount["mountPath"], request.directory):
                    yield (
                        f"container {name}: expected nothing mounted at or below {request.directory} "
                        f"({PREFIX}directory), found {mount['name']} at {mount['mountPath']}"
                    )


def _secrets(pod: Json, request: InjectionRequest, settings: SidecarSettings) -> Iterator[str]:
    """Mounts of the Secrets that would never be updated: the kubelet does not update a subPath."""
    for secret in filter(None, (settings.bundle_secret, request.leaf_secret)):
        for container, mount in _mounts_of(pod, secret):
            if mount.get("subPath") or mount.get("subPathExpr"):
                yield (
                    f"container {container}: expected Secret {secret} to be mounted whole, found a subPath at "
                    f"{mount['mountPath']}: it would never change; read {request.directory} in its place"
                )


def _mounts_of(pod: Json, secret: str) -> Iterator[tuple[str, Json]]:
    names = {volume["name"] for volume in pod["spec"].get("volumes") or [] if secret in _secrets_in(volume)}
    for _, container in _containers(pod):
        for mount in container.get("volumeMounts") or []:
            if mount["name"] in names:
                yield container["name"], mount


def _secrets_in(volume: Json) -> list[str]:
    sources = (volume.get("projected") or {}).get("sources") or []
    found = [
        (volume.get("secret") or {}).get("secretName"),
        *((one.get("secret") or {}).get("name") for one in sources),
    ]
    return [name for name in found if name]


def _process_namespace(pod: Json, request: InjectionRequest) -> Iterator[str]:
    """Faults that keep the agent from seeing the process that it signals, or let it see those of other pods."""
    spec = pod["spec"]
    if (spec.get("os") or {}).get("name") == "windows":
        yield "spec.os: expected Linux, found windows"
    if request.signals and spec.get("hostPID"):
        yield "spec.hostPID: expected false, since the agent would see every process of the node, found true"
    if request.signals and spec.get("shareProcessNamespace") is False:
        yield "spec.shareProcessNamespace: expected true, since the agent signals the workload, found false"


@dataclass(frozen=True, slots=True)
class _Users:
    """The user that the workload runs as, as far as the pod says."""

    container: str
    uid: int | None
    """None where only the image says it."""
    fs_group: bool
    """Whether the pod has an fsGroup, by which all containers share files."""

    @classmethod
    def of(cls, pod: Json, request: InjectionRequest) -> "_Users":
        context = pod["spec"].get("securityContext") or {}
        name = request.containers[0]
        workload = next(container for _, container in _containers(pod) if container["name"] == name)
        own = (workload.get("securityContext") or {}).get("runAsUser")
        return cls(name, context.get("runAsUser") if own is None else own, context.get("fsGroup") is not None)

    def identity(self, request: InjectionRequest, settings: SidecarSettings) -> SidecarIdentity:
        """The sidecar's user and group. Without fsGroup a volume belongs to group 0, so the sidecar has to be in it."""
        return SidecarIdentity(request.uid or self.uid or settings.uid, None if self.fs_group else 0)

    def unlike(self, request: InjectionRequest) -> Iterator[str]:
        """Faults that keep the sidecar from signalling the workload: only the same user may (kill(2))."""
        if self.uid == 0:
            yield (
                f"container {self.container}: expected a user other than root, since the sidecar has to be the same "
                f"user, and pod security level restricted has no root, found runAsUser 0"
            )
        elif request.uid is None and self.uid is None:
            yield (
                f"container {self.container}: expected runAsUser, or its user's number in {PREFIX}uid, since only the "
                f"same user may signal it, found neither"
            )
        elif None not in (request.uid, self.uid) and request.uid != self.uid:
            yield (
                f"{PREFIX}uid: expected {self.uid}, the user of container {self.container}, since only the same user "
                f"may signal it, found {request.uid}"
            )

    def unreadable(self, request: InjectionRequest) -> Iterator[str]:
        """Faults that keep the workload from reading the output: only owner and group may read the files."""
        if self.fs_group or self.uid == 0:
            return
        if request.uid is None and self.uid is None:
            yield (
                f"container {self.container}: expected runAsUser, its user's number in {PREFIX}uid, or an fsGroup of "
                f"the pod, since it has to read what the sidecar writes, found none of them"
            )
        elif None not in (request.uid, self.uid) and request.uid != self.uid:
            yield (
                f"{PREFIX}uid: expected {self.uid}, the user of container {self.container}, or an fsGroup by which "
                f"both share files, found {request.uid} and no fsGroup"
            )


def _mounts(pod: Json, request: InjectionRequest) -> Iterator[Json]:
    for path, container in _containers(pod):
        if container["name"] in request.containers:
            yield from _appended(
                f"{path}/volumeMounts", container.get("volumeMounts"), [sidecar.workload_mount(request)]
            )


def _spec(pod: Json, request: InjectionRequest, settings: SidecarSettings, identity: SidecarIdentity) -> Iterator[Json]:
    spec = pod["spec"]
    yield from _appended("/spec/volumes", spec.get("volumes"), sidecar.volumes(request, settings))
    if request.signals and not spec.get("shareProcessNamespace"):
        yield _add("/spec/shareProcessNamespace", value=True)
    agent = sidecar.container(request, settings, identity)
    # The sidecar goes first: init containers that need certificates start once it is up.
    if spec.get("initContainers"):
        yield _add("/spec/initContainers/0", agent)
    else:
        yield _add("/spec/initContainers", [agent])


def _metadata(pod: Json, request: InjectionRequest) -> Iterator[Json]:
    annotations: Mapping[str, str] = pod["metadata"].get("annotations") or {}
    fresh = {INJECTED: request.mode.value}
    if _SCRAPED not in annotations:  # a scrape of the workload stays; a PodMonitor finds the port by its name
        fresh |= {_SCRAPED: "true", "prometheus.io/port": str(sidecar.PORT), "prometheus.io/path": "/metrics"}
    if annotations:
        yield from (_add(f"/metadata/annotations/{_escaped(name)}", value) for name, value in fresh.items())
    else:
        yield _add("/metadata/annotations", fresh)
    for name, value in {AGENT: "true", CLASS: request.pod_class.value}.items():
        yield _add(f"/metadata/labels/{_escaped(name)}", value)


def _warnings(pod: Json, settings: SidecarSettings) -> Iterator[str]:
    secret = settings.bundle_secret
    for name in dict.fromkeys(container for container, _ in _mounts_of(pod, secret)):
        yield f"container {name} mounts Secret {secret} itself: what it reads there is not verified"


def _appended(path: str, present: Sequence[Json] | None, more: Sequence[Json]) -> Iterator[Json]:
    """Add to the end of a list, or add the list."""
    if present:
        yield from (_add(f"{path}/-", one) for one in more)
    else:
        yield _add(path, list(more))


def _add(path: str, value: Any) -> Json:
    return {"op": "add", "path": path, "value": value}


def _escaped(name: str) -> str:
    """A name in a JSON Pointer (RFC 6901); Tidemark's names have no "~"."""
    return name.replace("/", "~1")


def _within(path: str, directory: str) -> bool:
    return posixpath.normpath(path) == directory or posixpath.normpath(path).startswith(f"{directory}/")
