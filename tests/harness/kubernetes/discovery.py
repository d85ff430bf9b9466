"""The discovery documents of the fake API server, which kubectl reads first; pure.

https://kubernetes.io/docs/concepts/overview/kubernetes-api/#unaggregated-discovery: ``/api`` and ``/apis`` name the
groups, each version of a group names its resources. A client that asks for the aggregated form takes this one too.
"""

from typing import Any

from tests.harness.kubernetes.kinds import KINDS, ResourceKind

Json = dict[str, Any]

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def document(path: str) -> Json | None:
    """The answer to a GET of this path; None where it is no path of discovery."""
    groups = sorted({kind.group for kind in KINDS.values()} - {""})
    match path.strip("/").split("/"):
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in groups]}
        case ["api", "v1"]:
            return _resources("")
        case ["apis", group, "v1"] if group in groups:
            return _resources(group)
        case _:
            return None


def _group(name: str) -> Json:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group: str) -> Json:
    of_group = [kind for kind in KINDS.values() if kind.group == group]
    version = of_group[0].api_version
    resources = [_resource(kind) for kind in of_group]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _resource(kind: ResourceKind) -> Json:
    singular = kind.kind.lower()
    named = {"name": kind.plural, "singularName": singular, "kind": kind.kind}
    return named | {"namespaced": kind.namespaced, "verbs": _VERBS}
