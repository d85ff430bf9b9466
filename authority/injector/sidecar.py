"""The sidecar in a pod: its container, its volumes, and the workload's mount; pure.

``manifests/components`` add the same without the injector. The reasons are given here only.
"""

from dataclasses import dataclass
from typing import Any

from authority.injector.annotations import InjectionRequest

Json = dict[str, Any]

CONTAINER = "tidemark-agent"
PORT = 9465
PORT_NAME = "tidemark"

OUTPUT = "tidemark-run"
BUNDLE = "tidemark-bundle"
TRUST = "tidemark-trust"
LEAF = "tidemark-leaf"
TOKEN = "tidemark-token"  # noqa: S105 - the name of a volume
NO_API = "tidemark-no-api"
VOLUMES = (OUTPUT, BUNDLE, TRUST, LEAF, TOKEN, NO_API)

OWN_PATHS = "/etc/tidemark"
_TOKEN_PATH = "/var/run/secrets/tidemark.io"  # noqa: S105 - a path
_API_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
RESERVED = (OWN_PATHS, "/var/run/secrets", "/run/secrets", "/proc", "/sys", "/dev", "/opt/tidemark")
"""Mounts of the sidecar and files of its image: the output cannot be there."""

_GROUP_READS = 0o440


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """The settings that all sidecars share. Thirteen fields, since each is one key of the table ``[injector]``."""

    image: str
    pull_policy: str
    """Empty for the cluster's default."""
    authority_url: str
    """Where agents send receipts; empty where they send none."""
    audience: str
    """The audience of the projected token that receipts are sent with."""
    nats_url: str
    """Brokers whose announcements agents follow; empty for none."""
    bundle_secret: str
    trust_config_map: str
    directory: str
    """The default path of the output."""
    uid: int
    """The sidecar's user where neither the pod nor the workload decides."""
    cpu: str
    """A Kubernetes quantity, as are the next three."""
    cpu_limit: str
    """Empty for no limit."""
    memory: str
    memory_limit: str


@dataclass(frozen=True, slots=True)
class SidecarIdentity:
    """The user and group that the sidecar runs as."""

    uid: int
    group: int | None
    """None where the pod's ``fsGroup`` is the group of the output."""


def volumes(request: InjectionRequest, settings: SidecarSettings) -> list[Json]:
    """The volumes that the pod needs."""
    # Optional, because Secret and trust file may come after the pod: the agent waits for them, and the workload for it.
    secret = {"optional": True, "defaultMode": _GROUP_READS}
    made: list[Json] = [
        # In memory, since it holds a private key; limited, since it counts against the sidecar's memory.
        {"name": OUTPUT, "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": BUNDLE, "secret": {"secretName": settings.bundle_secret, **secret}},
        {"name": TRUST, "configMap": {"name": settings.trust_config_map, **secret}},
        {"name": NO_API, "emptyDir": {"medium": "Memory", "sizeLimit": "4Ki"}},
    ]
    if request.leaf_secret is not None:
        made.append({"name": LEAF, "secret": {"secretName": request.leaf_secret, **secret}})
    if settings.authority_url:
        token = {"audience": settings.audience, "expirationSeconds": 3600, "path": "token"}
        made.append(
            {"name": TOKEN, "projected": {"defaultMode": _GROUP_READS, "sources": [{"serviceAccountToken": token}]}}
        )
    return made


def workload_mount(request: InjectionRequest) -> Json:
    """The mount of each container of the workload that gets the output."""
    return {"name": OUTPUT, "mountPath": request.directory, "readOnly": True}


def container(request: InjectionRequest, settings: SidecarSettings, identity: SidecarIdentity) -> Json:
    """The sidecar: a native one, so the workload starts after its startupProbe succeeds, and ends before it."""
    made: Json = {
        "name": CONTAINER,
        "image": settings.image,
        "restartPolicy": "Always",
        "env": _environment(request, settings),
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        # Ten minutes for Secret and trust file to come, before a restart; what it waits for is in its log.
        "startupProbe": _probe("/startupz", period=1, failures=600),
        "livenessProbe": _probe("/livez", period=10, failures=6),
        "readinessProbe": _probe("/readyz", period=5, failures=3),
        "resources": _resources(settings),
        "securityContext": _security_context(identity),
        "volumeMounts": _mounts(request, settings),
    }
    if settings.pull_policy:
        made["imagePullPolicy"] = settings.pull_policy
    return made


def _environment(request: InjectionRequest, settings: SidecarSettings) -> list[Json]:
    values = {
        "TIDEMARK_BUNDLE": f"{OWN_PATHS}/bundle",
        "TIDEMARK_TRUST": f"{OWN_PATHS}/trust/trust.toml",
        "TIDEMARK_OUT": request.directory,
        "TIDEMARK_CLASS": request.pod_class.value,
        "TIDEMARK_TARGETS": " ".join(request.targets),
        "TIDEMARK_LISTEN": f"0.0.0.0:{PORT}",
        "TIDEMARK_LOG": "json",
    }
    if request.leaf_secret is not None:
        values["TIDEMARK_LEAF"] = f"{OWN_PATHS}/leaf"
        values["TIDEMARK_NATS_URL"] = settings.nats_url if request.nats_url is None else request.nats_url
    if request.splay:
        values["TIDEMARK_SPLAY"] = str(request.splay)
    if settings.authority_url:
        values["TIDEMARK_AUTHORITY_URL"] = settings.authority_url
        values["TIDEMARK_AUTHORITY_TOKEN_FILE"] = f"{_TOKEN_PATH}/token"
    fields = {"TIDEMARK_POD": "metadata.name", "TIDEMARK_POD_UID": "metadata.uid"}  # a ReplicaSet's has no name yet
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        # "$(" would be the kubelet's to replace; "$$" is how it writes "$"
        *({"name": name, "value": value.replace("$", "$$")} for name, value in values.items() if value),
    ]


def _mounts(request: InjectionRequest, settings: SidecarSettings) -> list[Json]:
    read_only = {
        BUNDLE: f"{OWN_PATHS}/bundle",
        TRUST: f"{OWN_PATHS}/trust",
        # The API server runs its own admission again after ours and would mount its token into this container too:
        # a mount that is there already keeps it out.
        NO_API: _API_TOKEN_PATH,
    }
    if request.leaf_secret is not None:
        read_only[LEAF] = f"{OWN_PATHS}/leaf"
    if settings.authority_url:
        read_only[TOKEN] = _TOKEN_PATH
    return [
        {"name": OUTPUT, "mountPath": request.directory},
        *({"name": name, "mountPath": path, "readOnly": True} for name, path in read_only.items()),
    ]


def _probe(path: str, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": PORT},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 3,
    }


def _resources(settings: SidecarSettings) -> Json:
    limits = {"memory": settings.memory_limit}
    if settings.cpu_limit:
        limits["cpu"] = settings.cpu_limit
    return {"requests": {"cpu": settings.cpu, "memory": settings.memory}, "limits": limits}


def _security_context(identity: SidecarIdentity) -> Json:
    """Pod security level ``restricted``, also where the pod's other containers have less."""
    made: Json = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": identity.uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if identity.group is not None:
        made["runAsGroup"] = identity.group
    return made
