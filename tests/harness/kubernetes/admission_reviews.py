"""AdmissionReviews as a kube-apiserver sends them, and the application of the answer."""

import base64
import copy
import json
import uuid
from collections.abc import Sequence
from typing import Any

import kubernetes_validate

Json = dict[str, Any]

MINORS = ("1.30", "1.33", "1.37")


def pod(labels: Json, annotations: Json | None = None, **spec: Any) -> Json:
    """A pod as the ReplicaSet controller makes it: no name yet, defaults filled in, the API's token mounted."""
    metadata: Json = {
        "generateName": "web-5d59d67564-",
        "creationTimestamp": None,
        "labels": {"app": "web", "pod-template-hash": "5d59d67564", **labels},
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": "web-5d59d67564",
                "uid": "0b7b4b9e-3a0b-4c43-9f3c-6d1f5a0b8f10",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if annotations:
        metadata["annotations"] = annotations
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {
            "volumes": [{"name": "kube-api-access-x7lzv", "projected": {"sources": [], "defaultMode": 420}}],
            "containers": [container("web")],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "serviceAccount": "default",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
            ],
            "priority": 0,
            "enableServiceLinks": True,
            "preemptionPolicy": "PreemptLowerPriority",
            **spec,
        },
        "status": {},
    }


def container(name: str, **more: Any) -> Json:
    mount = {
        "name": "kube-api-access-x7lzv",
        "readOnly": True,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }
    return {
        "name": name,
        "image": f"example.com/{name}:1",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"runAsUser": 1000},
        "volumeMounts": [mount, *more.pop("volumeMounts", [])],
        **more,
    }


def review(made: Json, **request: Any) -> bytes:
    """The request for the creation of a pod, from the ReplicaSet controller."""
    body = {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": str(uuid.uuid4()),
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "uid": "a9b4e5a9-6a21-4d34-a5b6-0f7d8c3a7c0e",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            },
            "object": made,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **request,
        },
    }
    return json.dumps(body).encode()


def admitted(made: Json, answer: Json) -> Json:
    """The pod after the answer is applied. Fails where the API server would refuse the answer."""
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = answer["response"]
    assert response["allowed"] is True, response
    assert ("patch" in response) == (response.get("patchType") == "JSONPatch")
    if "patch" not in response:
        return made
    return patched(made, json.loads(base64.b64decode(response["patch"], validate=True)))


def patched(document: Json, patch: list[Json]) -> Json:
    """Apply the operation ``add`` of RFC 6902, the only one that adding needs."""
    assert patch, "an empty patch is none"
    document = copy.deepcopy(document)
    for operation in patch:
        assert operation["op"] == "add"
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        target: Any = document
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        value = copy.deepcopy(operation["value"])
        if isinstance(target, list):
            index = len(target) if last == "-" else int(last)
            assert index <= len(target)
            target.insert(index, value)
        else:
            target[last] = value
    return document


def check_valid(made: Json, minors: Sequence[str] = MINORS) -> None:
    """What the API server's validation asks of a pod, as far as this project could break it."""
    for minor in minors:
        kubernetes_validate.validate(without_nulls(made), minor, strict=True)
    spec = made["spec"]
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    assert len(set(volumes)) == len(volumes)
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    names = [one["name"] for one in containers]
    assert len(set(names)) == len(names)
    for one in containers:
        mounts = one.get("volumeMounts", [])
        assert {mount["name"] for mount in mounts} <= set(volumes)
        paths = [mount["mountPath"] for mount in mounts]
        assert len(set(paths)) == len(paths)
        ports = [port["name"] for port in one.get("ports", []) if "name" in port]
        assert len(set(ports)) == len(ports)
        assert all(len(name) <= 15 for name in ports)
        variables = [variable["name"] for variable in one.get("env", [])]
        assert len(set(variables)) == len(variables)
    assert not (spec.get("hostPID") and spec.get("shareProcessNamespace"))
    for name, value in made["metadata"]["labels"].items():
        assert isinstance(value, str), name
    assert all(isinstance(value, str) for value in made["metadata"].get("annotations", {}).values())


def without_nulls(value: Any) -> Any:
    """The object after the API server has decoded it: without nulls."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


HTTP = {"tidemark.io/inject": "http"}

NATS = {"tidemark.io/inject": "nats"}

SIGNAL = {"tidemark.io/inject": "signal"}

PORT = {"tidemark.io/reload-port": "9000"}
