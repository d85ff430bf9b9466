"""The sidecar as a pod has it: its container, its volumes, and what the workload gets of them; pure.

``manifests/components`` add the same without the injector. Why each line is there is said beside it, once, here.
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
"""Where the sidecar has its own mounts and the image its files: the output cannot be there."""

_GROUP_READS = 0o440


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """What is the same for every pod: the image, whom to report to, names, and resources (Kubernetes quantities).

    ``pull_policy`` and ``cpu_limit`` may be "" (the cluster's default; none), and so may ``nats_url`` (no announcement
    is followed). ``uid`` is used where nothing asks for the workload's.
    """

    image: str
    pull_policy: str
    authority_url: str
    audience: str
    nats_url: str
    bundle_secret: str
    trust_config_map: str
    directory: str
    uid: int
    cpu: str
    cpu_limit: str
    memory: str
    memory_limit: str


@dataclass(frozen=True, slots=True)
class SidecarIdentity:
    """Whom the sidecar runs as. ``group`` is None where the pod's ``fsGroup`` lets it share files."""

    uid: int
    group: int | None


def volumes(wishes: InjectionRequest, settings: SidecarSettings) -> list[Json]:
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
    if wishes.leaf_secret is not None:
        made.append({"name": LEAF, "secret": {"secretName": wishes.leaf_secret, **secret}})
    if settings.authority_url:
        token = {"audience": settings.audience, "expirationSeconds": 3600, "path": "token"}
        made.append(
            {"name": TOKEN, "projected": {"defaultMode": _GROUP_READS, "sources": [{"serviceAccountToken": token}]}}
        )
    return made


def workload_mount(wishes: InjectionRequest) -> Json:
    """What each named container of the workload gets."""
    return {"name": OUTPUT, "mountPath": wishes.directory, "readOnly": True}


def container(wishes: InjectionRequest, settings: SidecarSettings, identity: SidecarIdentity) -> Json:
    """The sidecar: a native one, so that the workload starts after its startupProbe and ends before it does."""
    made: Json = {
        "name": CONTAINER,
        "image": settings.image,
        "restartPolicy": "Always",
        "env": _environment(wishes, settings),
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        # Ten minutes for Secret and trust file to come, before a restart; what it waits for is in its log.
        "startupProbe": _probe("/startupz", period=1, failures=600),
        "livenessProbe": _probe("/livez", period=10, failures=6),
        "readinessProbe": _probe("/readyz", period=5, failures=3),
        "resources": _resources(settings),
        "securityContext": _security_context(identity),
        "volumeMounts": _mounts(wishes, settings),
    }
    if settings.pull_policy:
        made["imagePullPolicy"] = settings.pull_policy
    return made


def _environment(wishes: InjectionRequest, settings: SidecarSettings) -> list[Json]:
    values = {
        "TIDEMARK_BUNDLE": f"{OWN_PATHS}/bundle",
        "TIDEMARK_TRUST": f"{OWN_PATHS}/trust/trust.toml",
        "TIDEMARK_OUT": wishes.directory,
        "TIDEMARK_CLASS": wishes.pod_class.value,
        "TIDEMARK_TARGETS": " ".join(wishes.targets),
        "TIDEMARK_LISTEN": f"0.0.0.0:{PORT}",
        "TIDEMARK_LOG": "json",
    }
    if wishes.leaf_secret is not None:
        values["TIDEMARK_LEAF"] = f"{OWN_PATHS}/leaf"
        values["TIDEMARK_NATS_URL"] = settings.nats_url if wishes.nats_url is None else wishes.nats_url
    if wishes.splay:
        values["TIDEMARK_SPLAY"] = str(wishes.splay)
    if settings.authority_url:
        values["TIDEMARK_AUTHORITY_URL"] = settings.authority_url
        values["TIDEMARK_AUTHORITY_TOKEN_FILE"] = f"{_TOKEN_PATH}/token"
    fields = {"TIDEMARK_POD": "metadata.name", "TIDEMARK_POD_UID": "metadata.uid"}  # a ReplicaSet's has no name yet
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        # "$(" would be the kubelet's to replace; "$$" is how it writes "$"
        *({"name": name, "value": value.replace("$", "$$")} for name, value in values.items() if value),
    ]


def _mounts(wishes: InjectionRequest, settings: SidecarSettings) -> list[Json]:
    read_only = {
        BUNDLE: f"{OWN_PATHS}/bundle",
        TRUST: f"{OWN_PATHS}/trust",
        # The API server runs its own admission again after ours and would mount its token into this container too:
        # a mount that is there already keeps it out.
        NO_API: _API_TOKEN_PATH,
    }
    if wishes.leaf_secret is not None:
        read_only[LEAF] = f"{OWN_PATHS}/leaf"
    if settings.authority_url:
        read_only[TOKEN] = _TOKEN_PATH
    return [
        {"name": OUTPUT, "mountPath": wishes.directory},
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
    """Pod security level ``restricted``, whatever the pod says for its other containers."""
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
