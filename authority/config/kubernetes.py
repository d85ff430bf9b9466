"""The table ``[kubernetes]`` of the configuration: where the API server is, and what the authority does there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from authority.config.toml_table import TomlTable
from authority.kubernetes.credentials import InCluster, Kubeconfig, KubernetesAccess

DEFAULT_AUDIENCE = "tidemark-authority"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class SecretName:
    """A Secret and its namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class CertManagerConfig:
    """Which of cert-manager's Certificates a withdrawal is to renew: those in ``namespaces`` whose ``spec.issuerRef``
    names ``issuer``, an Issuer there or a ClusterIssuer.
    """

    namespaces: tuple[str, ...]
    issuer: str


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """``namespace`` is the authority's own ("": the one that the credentials belong to); ``fleet`` names the namespaces
    whose agents' pods are the fleet (none: the agents that the configuration lists).

    ``audience`` is that of the agents' projected tokens, ``lease`` the Lease that the replicas agree by; ``nudge``
    whether the agents' pods are annotated when a Secret of theirs changed. ``cert_manager`` is None where it makes no
    leaves.
    """

    access: KubernetesAccess
    namespace: str
    fleet: tuple[str, ...]
    audience: str
    lease: str
    nudge: bool
    cert_manager: CertManagerConfig | None = None


def read_kubernetes(table: TomlTable, base: Path, environment: Mapping[str, str]) -> KubernetesConfig:
    """Read the table; faults are recorded in it. Relative paths start at ``base``."""
    config = KubernetesConfig(
        access=_access(table, base, environment),
        namespace=table.text("namespace") if "namespace" in table else "",
        fleet=table.texts("fleet", []),
        audience=table.text("audience", DEFAULT_AUDIENCE, 253),
        lease=table.text("lease", "tidemark-authority"),
        nudge=table.flag("nudge", default=False),
        cert_manager=_cert_manager(table.table("cert_manager")) if "cert_manager" in table else None,
    )
    if config.namespace and not _LABEL.fullmatch(config.namespace):
        table.fault("namespace", f"expected the name of a namespace, found {config.namespace!r}")
    _check_namespaces(table, "fleet", config.fleet)
    if not _is_name(config.lease):
        table.fault("lease", f"expected a name that Kubernetes allows, found {config.lease!r}")
    return config


def _cert_manager(table: TomlTable) -> CertManagerConfig:
    config = CertManagerConfig(table.texts("namespaces", [], least=1), table.text("issuer", longest=253))
    _check_namespaces(table, "namespaces", config.namespaces)
    if config.issuer and not _is_name(config.issuer):
        table.fault("issuer", f"expected a name that Kubernetes allows, found {config.issuer!r}")
    return config


def _check_namespaces(table: TomlTable, key: str, namespaces: tuple[str, ...]) -> None:
    for namespace in namespaces:
        if not _LABEL.fullmatch(namespace):
            table.fault(key, f"expected names of namespaces, found {namespace!r}")
    if len(set(namespaces)) < len(namespaces):
        table.fault(key, f"expected each namespace once, found {', '.join(namespaces)}")


def read_secret_name(table: TomlTable, key: str) -> SecretName:
    """``namespace/name``; a fault is recorded where it is not."""
    text = table.text(key, longest=320)
    namespace, _, name = text.partition("/")
    if not _LABEL.fullmatch(namespace) or not _is_name(name):
        table.fault(key, f"expected 'namespace/name' of a Secret, found {text!r}")
    return SecretName(namespace, name)


def _access(table: TomlTable, base: Path, environment: Mapping[str, str]) -> KubernetesAccess:
    """The kubeconfig that is named, else the API server that the kubelet tells every container of."""
    context = table.text("context") if "context" in table else ""
    if "kubeconfig" in table:
        return Kubeconfig(base / table.text("kubeconfig"), context)
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if context:
        table.fault("context", "expected the key 'kubeconfig' as well, found none")
    elif not host:
        table.fault(
            "kubeconfig", "expected a kubeconfig file, or to run in a pod (KUBERNETES_SERVICE_HOST), found neither"
        )
    return InCluster(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}")


def _is_name(text: str) -> bool:
    return len(text) <= 253 and _NAME.fullmatch(text) is not None
