"""The kinds of the fake API server, and the validation of their objects; pure."""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.harness.kubernetes.status import bad_request, invalid

Json = dict[str, Any]

LARGEST_SECRET = 1024 * 1024

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class ResourceKind:
    group: str
    kind: str
    plural: str
    namespaced: bool = True
    custom: bool = False
    """A custom resource, with a status of its own (``subresources: {status: {}}``)."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/v1" if self.group else "v1"


NAMESPACE = ResourceKind("", "Namespace", "namespaces", namespaced=False)
SECRET = ResourceKind("", "Secret", "secrets")
CONFIG_MAP = ResourceKind("", "ConfigMap", "configmaps")
POD = ResourceKind("", "Pod", "pods")
LEASE = ResourceKind("coordination.k8s.io", "Lease", "leases")
TOKEN_REVIEW = ResourceKind("authentication.k8s.io", "TokenReview", "tokenreviews", namespaced=False)
CERTIFICATE = ResourceKind("cert-manager.io", "Certificate", "certificates", custom=True)
MUTATING_WEBHOOKS = ResourceKind(
    "admissionregistration.k8s.io", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", namespaced=False
)

_MONITORING = ("PodMonitor", "ServiceMonitor", "PrometheusRule")
_KEPT = (
    ResourceKind("", "ServiceAccount", "serviceaccounts"),
    ResourceKind("", "Service", "services"),
    ResourceKind("", "PersistentVolumeClaim", "persistentvolumeclaims"),
    *(ResourceKind("monitoring.coreos.com", name, f"{name.lower()}s", custom=True) for name in _MONITORING),
    ResourceKind("apps", "Deployment", "deployments"),
    ResourceKind("apps", "StatefulSet", "statefulsets"),
    ResourceKind("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
    ResourceKind("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
    *(ResourceKind("rbac.authorization.k8s.io", name, f"{name.lower()}s") for name in ("Role", "RoleBinding")),
    *(
        ResourceKind("rbac.authorization.k8s.io", name, f"{name.lower()}s", namespaced=False)
        for name in ("ClusterRole", "ClusterRoleBinding")
    ),
    ResourceKind(
        "admissionregistration.k8s.io", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", namespaced=False
    ),
    ResourceKind(
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        namespaced=False,
    ),
)
"""Kinds that the manifests contain and that the fake server only stores."""

_ALL = (NAMESPACE, SECRET, CONFIG_MAP, POD, LEASE, TOKEN_REVIEW, MUTATING_WEBHOOKS, CERTIFICATE, *_KEPT)
KINDS = {(kind.group, kind.plural): kind for kind in _ALL}


def check(kind: ResourceKind, new: Json, old: Json | None) -> None:
    """Raises Failure where an object, or its change from ``old``, is not valid; fills in what the server does."""
    metadata = new["metadata"]
    name = metadata["name"]
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise invalid(kind.kind, name, "metadata.name", "a lowercase RFC 1123 subdomain is expected")
    for key, value in (metadata.get("labels") or {}).items():
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            raise invalid(kind.kind, name, f"metadata.labels[{key}]", f"invalid value {value!r}")
    for key, value in (metadata.get("annotations") or {}).items():
        if not isinstance(value, str):
            raise bad_request(f"annotation {key}: expected a string")
    if kind is SECRET:
        _check_secret(new, old)
    is_sealed = kind in (SECRET, CONFIG_MAP) and old is not None and old.get("immutable")
    if is_sealed and old and (new.get("data", {}) != old.get("data", {}) or not new.get("immutable")):
        raise invalid(kind.kind, name, "data", "Forbidden: field is immutable when `immutable` is set")
    if kind is LEASE:
        _check_lease(new)
    if kind is MUTATING_WEBHOOKS:
        _check_webhooks(new)


def _check_webhooks(new: Json) -> None:
    name, webhooks = new["metadata"]["name"], new.get("webhooks") or []
    if len({webhook.get("name") for webhook in webhooks}) < len(webhooks):
        raise invalid("MutatingWebhookConfiguration", name, "webhooks[*].name", "Duplicate value")
    for index, webhook in enumerate(webhooks):
        for field in ("name", "clientConfig", "sideEffects", "admissionReviewVersions"):
            if not webhook.get(field):
                raise invalid("MutatingWebhookConfiguration", name, f"webhooks[{index}].{field}", "Required value")
        try:
            base64.b64decode(webhook["clientConfig"].get("caBundle", ""), validate=True)
        except binascii.Error:
            raise bad_request("MutatingWebhookConfiguration: illegal base64 data in caBundle") from None


def _check_secret(new: Json, old: Json | None) -> None:
    name = new["metadata"]["name"]
    data = dict(new.get("data") or {})
    for key, text in (new.pop("stringData", None) or {}).items():
        data[key] = base64.b64encode(text.encode()).decode()
    new["data"] = data
    new.setdefault("type", "Opaque")
    size = 0
    for key, value in data.items():
        if not _KEY.fullmatch(key):
            raise invalid("Secret", name, f"data[{key}]", "a valid config key must consist of alphanumerics, -, _ or .")
        try:
            size += len(base64.b64decode(value, validate=True))
        except (binascii.Error, TypeError):
            raise bad_request(f"Secret in version v1 cannot be handled: illegal base64 data in {key}") from None
    if size > LARGEST_SECRET:
        raise invalid("Secret", name, "data", f"Too long: may not be more than {LARGEST_SECRET} bytes")
    if new["type"] == "kubernetes.io/tls":
        for key in ("tls.crt", "tls.key"):
            if key not in data:
                raise invalid("Secret", name, f"data[{key}]", "Required value")
    if old is not None and old["type"] != new["type"]:
        raise invalid("Secret", name, "type", f'Invalid value: "{new["type"]}": field is immutable')


def _check_lease(new: Json) -> None:
    name, spec = new["metadata"]["name"], new.get("spec") or {}
    for field in ("acquireTime", "renewTime"):
        value = spec.get(field)
        if value is None:
            continue
        if not isinstance(value, str) or not _MICRO_TIME.fullmatch(value):  # Go's layout demands six digits
            raise bad_request(f'parsing time "{value}" as "2006-01-02T15:04:05.000000Z07:00": cannot parse')
        datetime.fromisoformat(value)
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and (not isinstance(duration, int) or duration <= 0):
        raise invalid("Lease", name, "spec.leaseDurationSeconds", "must be greater than 0")
    transitions = spec.get("leaseTransitions")
    if transitions is not None and (not isinstance(transitions, int) or transitions < 0):
        raise invalid("Lease", name, "spec.leaseTransitions", "must be greater than or equal to 0")
