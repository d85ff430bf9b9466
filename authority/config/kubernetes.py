"""The table ``[kubernetes]``: the API server, and what the authority does there."""

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
    """The table ``[kubernetes.cert_manager]``: the Certificates that are renewed after a withdrawal."""

    namespaces: tuple[str, ...]
    issuer: str
    """Certificates whose ``spec.issuerRef`` has this name, of an Issuer or a ClusterIssuer."""


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """The table's values."""

    access: KubernetesAccess
    namespace: str
    """The authority's own; empty for the namespace that the credentials belong to."""
    fleet: tuple[str, ...]
    """Namespaces whose agents' pods are the fleet; empty where the configuration lists the agents."""
    audience: str
    """The audience of the agents' projected tokens."""
    lease: str
    """The name of the Lease by which replicas elect the leader."""
    nudge: bool
    """Whether to annotate the agents' pods when a Secret that they mount changed."""
    cert_manager: CertManagerConfig | None = None
    """None where cert-manager makes no leaves."""


def read_kubernetes(table: TomlTable, base: Path, environment: Mapping[str, str]) -> KubernetesConfig:
    """Read the table; the table collects the faults. Relative paths start at ``base``."""
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
    """The Secret that a key names as ``namespace/name``."""
    text = table.text(key, longest=320)
    namespace, _, name = text.partition("/")
    if not _LABEL.fullmatch(namespace) or not _is_name(name):
        table.fault(key, f"expected 'namespace/name' of a Secret, found {text!r}")
    return SecretName(namespace, name)


def _access(table: TomlTable, base: Path, environment: Mapping[str, str]) -> KubernetesAccess:
    """The configured kubeconfig; without one, the API server named in the container's environment."""
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
