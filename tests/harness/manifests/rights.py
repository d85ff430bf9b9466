"""Every right that the manifests may grant. Any other right fails the tests; a new right needs a line here, and its
reason beside the rule."""

from collections.abc import Iterator
from typing import NamedTuple

from tests.harness.manifests.build import Object

EVERYWHERE = "*"


class Right(NamedTuple):
    """A granted right; ``namespace`` "*" is the whole cluster, ``name`` "*" every object."""

    account: str
    namespace: str
    group: str
    resource: str
    verb: str
    name: str = "*"


_AUTHORITY = "tidemark/tidemark-authority"


def _of(namespace: str, group: str, resource: str, verbs: str, name: str = "*") -> set[Right]:
    return {Right(_AUTHORITY, namespace, group, resource, verb, name) for verb in verbs.split()}


AUTHORITY = (
    _of(EVERYWHERE, "", "namespaces", "list watch")
    | _of(EVERYWHERE, "", "secrets", "get list watch patch", "nats-ca-tls")
    | _of(EVERYWHERE, "", "secrets", "create")
    | _of(EVERYWHERE, "", "configmaps", "list", "tidemark-trust")
    | _of(EVERYWHERE, "", "configmaps", "create")
    | _of(EVERYWHERE, "authentication.k8s.io", "tokenreviews", "create")
    | _of("tidemark", "", "secrets", "list create delete")
    | _of("tidemark", "coordination.k8s.io", "leases", "get update", "tidemark-authority")
    | _of("tidemark", "coordination.k8s.io", "leases", "create")
)
INJECTOR = _of(
    EVERYWHERE, "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get patch", "tidemark-injector"
)
NUDGE = _of(EVERYWHERE, "", "pods", "patch")
IN_THE_FLEET = (
    _of("nats", "", "pods", "list watch")
    | _of("nats", "", "secrets", "get patch", "nats-server-tls")
    | _of("orders", "", "pods", "list watch")
    | _of("orders", "", "secrets", "get patch", "application-tls")
)
CERT_MANAGER = _of("nats", "cert-manager.io", "certificates", "list") | _of(
    "nats", "cert-manager.io", "certificates/status", "patch"
)
ALLOWED = AUTHORITY | INJECTOR | NUDGE | IN_THE_FLEET | CERT_MANAGER

NARROWED = {
    Right(_AUTHORITY, EVERYWHERE, "", "secrets", "create"): "tidemark-authority-secrets",
    Right(_AUTHORITY, EVERYWHERE, "", "configmaps", "create"): "tidemark-authority-trust",
    Right(_AUTHORITY, EVERYWHERE, "", "pods", "patch"): "tidemark-authority-nudge",
    **dict.fromkeys((right for right in INJECTOR if right.verb == "patch"), "tidemark-authority-webhook"),
    **dict.fromkeys(_of("tidemark", "", "secrets", "create delete"), "tidemark-authority-secrets"),
}
"""Rights to write that RBAC cannot narrow enough, each with the admission policy that does."""


def granted(objects: list[Object]) -> Iterator[Right]:
    """Every right that the roles and bindings among these objects grant."""
    roles = {(role["kind"], _namespace(role), role["metadata"]["name"]): role for role in objects if "rules" in role}
    for binding in objects:
        if "roleRef" not in binding:
            continue
        reference, namespace = binding["roleRef"], _namespace(binding)
        role = roles[reference["kind"], namespace if reference["kind"] == "Role" else EVERYWHERE, reference["name"]]
        for subject in binding["subjects"]:
            account = f"{subject.get('namespace', subject['kind'])}/{subject['name']}"
            yield from _rights(account, namespace, role)


def _namespace(item: Object) -> str:
    return EVERYWHERE if item["kind"].startswith("Cluster") else str(item["metadata"]["namespace"])


def _rights(account: str, namespace: str, role: Object) -> Iterator[Right]:
    for rule in role["rules"]:
        assert "nonResourceURLs" not in rule
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames", ["*"]):
                        yield Right(account, namespace, group, resource, verb, name)
