"""The storage of the fake API server: objects with their versions, and the changes for watches.

https://kubernetes.io/docs/reference/using-api/api-concepts/: one resourceVersion counts all changes; an update that
names another version than the stored one is a conflict; a write that changes nothing makes no new version.
"""

import asyncio
import copy
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.harness.kubernetes import status
from tests.harness.kubernetes.kinds import NAMESPACE, POD, ResourceKind, check
from tests.harness.kubernetes.managed_fields import Managed, Owned, Owner, applied, created, updated
from tests.harness.kubernetes.selectors import Selects

Json = dict[str, Any]
Key = tuple[ResourceKind, str, str]

_MERGE_KEYS = {"webhooks": "name"}
"""Lists that a strategic merge patch merges, with the key of their entries (``patchMergeKey``)."""

_SERVERS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


@dataclass(frozen=True)
class _Stored:
    body: Json
    managed: Managed
    version: int

    def render(self) -> Json:
        """The object as a client reads it."""
        body = copy.deepcopy(self.body)
        body["metadata"]["resourceVersion"] = str(self.version)
        body["metadata"]["managedFields"] = self.managed.render(body["apiVersion"])
        return body


@dataclass(frozen=True)
class Change:
    """One write: ``old`` is None where it created the object; ``new`` carries the version, also of a deletion."""

    version: int
    kind: ResourceKind
    namespace: str
    old: Json | None
    new: Json
    deleted: bool = False

    def seen_through(self, selected: Selects) -> str | None:
        """The type of the watch event for this selection; None outside of it. An object may leave a selection."""
        before = self.old is not None and selected(self.old)
        after = not self.deleted and selected(self.new)
        if after:
            return "MODIFIED" if before else "ADDED"
        return "DELETED" if before else None


class Store:
    """Objects by kind, namespace and name; a method for each verb of the API, and some for tests.

    ``clock`` gives Unix seconds for the server's time stamps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._objects: dict[Key, _Stored] = {}
        self.version = 1000
        self.compacted = 0
        self.changes: list[Change] = []
        self.changed = asyncio.Event()

    def now(self) -> str:
        return datetime.fromtimestamp(int(self._clock()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def compact(self) -> None:
        """Forget past changes: no new watch can begin before the present version. Running watches continue."""
        self.version += 1
        self.compacted = self.version

    def get(self, kind: ResourceKind, namespace: str, name: str) -> Json:
        return self._stored(kind, namespace, name).render()

    def find(self, kind: ResourceKind, namespace: str, name: str) -> Json | None:
        """For tests: the object, or None."""
        stored = self._objects.get((kind, namespace, name))
        return stored.render() if stored else None

    def select(self, kind: ResourceKind, namespace: str, selected: Selects) -> list[Json]:
        """Objects of a namespace ("" for all), ordered as etcd does: by namespace, then name."""
        return [
            rendered
            for (of, where, _), stored in sorted(self._objects.items(), key=lambda item: item[0][1:])
            if of is kind and namespace in ("", where)
            if selected(rendered := stored.render())
        ]

    def create(self, kind: ResourceKind, namespace: str, body: Json, manager: str) -> Json:
        body = self._cleaned(kind, namespace, body)
        metadata = body["metadata"]
        if metadata.get("resourceVersion"):
            raise status.bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise status.invalid(kind.kind, "", "metadata.name", "Required value: name or generateName is required")
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
        if (kind, namespace, metadata["name"]) in self._objects:
            raise status.already_exists(kind.plural, metadata["name"])
        self._check_namespace(kind, namespace, metadata["name"])
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": self.now()}
        check(kind, body, None)
        return self._keep(kind, namespace, body, created(body, Owner(manager, "Update"), self.now()))

    def update(self, kind: ResourceKind, namespace: str, name: str, body: Json, manager: str) -> Json:
        """PUT the whole object; a version in it must be the stored version."""
        stored = self._stored(kind, namespace, name)
        body = self._cleaned(kind, namespace, body)
        if body["metadata"].get("name", name) != name:
            raise status.bad_request("the name of the object does not match the name on the URL")
        return self._replace((kind, namespace, name), stored, body, Owner(manager, "Update"))

    def merge(
        self,
        kind: ResourceKind,
        namespace: str,
        name: str,
        patch: Json,
        manager: str,
        *,
        strategic: bool = False,
        of_status: bool = False,
    ) -> Json:
        """A merge patch (RFC 7396), or a strategic one, which merges some lists by a key of their entries.

        Of a custom resource's status it changes that alone, and of the resource all but that.
        """
        stored = self._stored(kind, namespace, name)
        body = _merged(stored.body, patch, strategic=strategic)
        if kind.custom:
            body = _split(stored.body, body, of_status=of_status)
        return self._replace((kind, namespace, name), stored, body, Owner(manager, "Update"))

    def apply(self, kind: ResourceKind, namespace: str, name: str, wanted: Json, manager: str, *, force: bool) -> Json:
        """Server-side apply; creates what is missing."""
        wanted = self._cleaned(kind, namespace, wanted)
        metadata = wanted["metadata"]
        if metadata.get("name") != name:
            raise status.bad_request("the name of the object does not match the name on the URL")
        if metadata.get("managedFields"):
            raise status.bad_request("metadata.managedFields must be nil")
        if wanted.get("apiVersion") != kind.api_version or wanted.get("kind") != kind.kind:
            raise status.bad_request("apiVersion and kind must be set in an applied configuration")
        stored = self._objects.get((kind, namespace, name))
        if stored is None:
            self._check_namespace(kind, namespace, name)
            metadata.pop("resourceVersion", None)
            body, managed = applied({}, Managed(), wanted, manager, self.now(), force=force)
            body |= {"apiVersion": kind.api_version, "kind": kind.kind}
            body["metadata"] = body.get("metadata", {}) | {
                "name": name,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": self.now(),
            }
            if kind.namespaced:
                body["metadata"]["namespace"] = namespace
            check(kind, body, None)
            return self._keep(kind, namespace, body, managed)
        if metadata.pop("resourceVersion", None) not in (None, str(stored.version)):
            raise status.stale(kind.plural, name)
        if metadata.get("uid", stored.body["metadata"]["uid"]) != stored.body["metadata"]["uid"]:
            raise status.stale(kind.plural, name)
        try:
            body, managed = applied(stored.body, stored.managed, wanted, manager, self.now(), force=force)
        except Owned as error:
            raise status.owned(kind.plural, name, error.conflicts) from None
        check(kind, body, stored.body)
        return self._keep(kind, namespace, body, managed, stored)

    def delete(self, kind: ResourceKind, namespace: str, name: str) -> Json:
        stored = self._stored(kind, namespace, name)
        del self._objects[kind, namespace, name]
        self.version += 1
        gone = stored.render()
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._note(Change(self.version, kind, namespace, stored.render(), gone, deleted=True))
        return gone

    def put(self, kind: ResourceKind, body: Json) -> Json:
        """For tests: an object as other parts of the cluster write it, created or replaced."""
        namespace = body["metadata"].get("namespace", "")
        stored = self._objects.get((kind, namespace, body["metadata"]["name"]))
        if stored is None:
            return self.create(kind, namespace, body, "test")
        body = self._cleaned(kind, namespace, body)
        return self._replace((kind, namespace, body["metadata"]["name"]), stored, body, Owner("test", "Update"))

    def terminate(self, kind: ResourceKind, namespace: str, name: str) -> Json:
        """For tests: mark an object as being deleted, as a namespace or a pod is for a while."""
        stored = self._stored(kind, namespace, name)
        body = copy.deepcopy(stored.body)
        body["metadata"] |= {"deletionTimestamp": self.now(), "deletionGracePeriodSeconds": 30}
        if kind is NAMESPACE:
            body["status"] = {"phase": "Terminating"}
        return self._keep(kind, namespace, body, stored.managed, stored)

    def since(self, version: int) -> list[Change]:
        """Changes after a version."""
        return [change for change in self.changes if change.version > version]

    def check_remembered(self, version: int) -> None:
        """Raises Failure (410) where changes after this version are forgotten."""
        if version < self.compacted:
            raise status.expired(version, self.compacted)

    def _stored(self, kind: ResourceKind, namespace: str, name: str) -> _Stored:
        try:
            return self._objects[kind, namespace, name]
        except KeyError:
            raise status.not_found(kind.plural, name) from None

    def _check_namespace(self, kind: ResourceKind, namespace: str, name: str) -> None:
        if not kind.namespaced:
            return
        found = self._objects.get((NAMESPACE, "", namespace))
        if found is None:
            raise status.not_found("namespaces", namespace)
        if "deletionTimestamp" in found.body["metadata"]:
            raise status.terminating(kind.plural, name, namespace)

    def _cleaned(self, kind: ResourceKind, namespace: str, body: Json) -> Json:
        if not isinstance(body, dict) or not isinstance(body.get("metadata", {}), dict):
            raise status.bad_request("the body is no object")
        body = copy.deepcopy(body)
        metadata = body.setdefault("metadata", {})
        body.setdefault("apiVersion", kind.api_version)
        body.setdefault("kind", kind.kind)
        if kind.namespaced:
            if metadata.get("namespace", namespace) != namespace:
                raise status.bad_request("the namespace of the object does not match the namespace on the request")
            metadata["namespace"] = namespace
        return body

    def _replace(self, key: Key, stored: _Stored, body: Json, owner: Owner) -> Json:
        kind, namespace, name = key
        metadata = body["metadata"]
        if metadata.pop("resourceVersion", None) not in (None, "", str(stored.version)):
            raise status.stale(kind.plural, name)
        if metadata.get("uid", stored.body["metadata"]["uid"]) != stored.body["metadata"]["uid"]:
            raise status.stale(kind.plural, name)
        metadata.pop("managedFields", None)
        kept = {field: stored.body["metadata"][field] for field in _SERVERS if field in stored.body["metadata"]}
        body["metadata"] = {field: value for field, value in metadata.items() if field not in _SERVERS} | kept
        body["metadata"]["name"] = name
        check(kind, body, stored.body)
        managed = updated(stored.body, stored.managed, body, owner, self.now())
        return self._keep(kind, namespace, body, managed, stored)

    def _keep(
        self, kind: ResourceKind, namespace: str, body: Json, managed: Managed, old: _Stored | None = None
    ) -> Json:
        if kind is NAMESPACE:
            labels = body["metadata"].setdefault("labels", {})
            labels.setdefault("kubernetes.io/metadata.name", body["metadata"]["name"])
        if kind in (NAMESPACE, POD):
            body.setdefault("status", {})
        if old is not None and old.body == body and old.managed == managed:
            return old.render()
        self.version += 1
        stored = _Stored(body, managed, self.version)
        self._objects[kind, namespace, body["metadata"]["name"]] = stored
        self._note(Change(self.version, kind, namespace, old.render() if old else None, stored.render()))
        return stored.render()

    def _note(self, change: Change) -> None:
        self.changes.append(change)
        self.changed.set()
        self.changed = asyncio.Event()


def _split(old: Json, new: Json, *, of_status: bool) -> Json:
    """What is kept of a change to a custom resource: its status alone, or all but that."""
    if of_status:
        asked = {name: value for name, value in new["metadata"].items() if name in ("resourceVersion", "uid")}
        return {**old, "metadata": {**old["metadata"], **asked}, "status": new.get("status", {})}
    rest = {name: value for name, value in new.items() if name != "status"}
    return rest | ({"status": old["status"]} if "status" in old else {})


def _merged(target: Json, patch: Json, *, strategic: bool) -> Json:
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            inner = result.get(name)
            result[name] = _merged(inner if isinstance(inner, dict) else {}, value, strategic=strategic)
        elif strategic and name in _MERGE_KEYS:
            result[name] = _merged_by_key(result.get(name) or [], value, _MERGE_KEYS[name])
        else:
            result[name] = copy.deepcopy(value)
    return result


def _merged_by_key(target: list[Json], patch: list[Json], key: str) -> list[Json]:
    changes = {change[key]: change for change in patch}
    merged = [_merged(entry, changes.pop(entry[key], {}), strategic=True) for entry in target]
    return merged + list(changes.values())
