"""Managers of the fields of an object, and server-side apply; pure.

https://kubernetes.io/docs/reference/using-api/server-side-apply/. Maps are granular; lists are taken as a whole (as
``listType=atomic``), which is enough for the kinds that the fake server has.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Path = tuple[str, ...]

_SERVERS = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")
_UNMANAGED = {("apiVersion",), ("kind",), *(("metadata", name) for name in (*_SERVERS, "generateName", "selfLink"))}


@dataclass(frozen=True)
class Owner:
    """A manager and its operation: the same name with another operation is another manager."""

    manager: str
    operation: str


@dataclass(frozen=True)
class Managed:
    """Which owner manages which fields, and since when it last changed any of them (RFC 3339)."""

    fields: Mapping[Owner, frozenset[Path]] = field(default_factory=dict)
    times: Mapping[Owner, str] = field(default_factory=dict)

    def render(self, api_version: str) -> list[Json]:
        """The value of ``metadata.managedFields``."""
        return [
            {
                "manager": owner.manager,
                "operation": owner.operation,
                "apiVersion": api_version,
                "time": self.times[owner],
                "fieldsType": "FieldsV1",
                "fieldsV1": _fields_v1(paths),
            }
            for owner, paths in self.fields.items()
        ]


class Owned(Exception):
    """An apply without force met fields that others manage, with other values: (manager, ``.path``)."""

    def __init__(self, conflicts: list[tuple[str, str]]) -> None:
        super().__init__(str(conflicts))
        self.conflicts = conflicts


def created(new: Json, owner: Owner, now: str) -> Managed:
    """All fields of a new object are its creator's."""
    return Managed({owner: frozenset(leaves(new))}, {owner: now})


def updated(before: Json, managed: Managed, after: Json, owner: Owner, now: str) -> Managed:
    """Managers after an update or a patch: the writer alone manages changed fields, nothing manages removed fields."""
    old, new = leaves(before), leaves(after)
    changed = frozenset(path for path, value in new.items() if path not in old or old[path] != value)
    if not changed and old.keys() == new.keys():
        return managed
    fields = {other: (paths - changed) & new.keys() for other, paths in managed.fields.items()}
    fields[owner] = fields.get(owner, frozenset()) | changed
    return _without_empty(fields, dict(managed.times) | {owner: now})


def applied(live: Json, managed: Managed, wanted: Json, manager: str, now: str, *, force: bool) -> tuple[Json, Managed]:
    """The object after server-side apply of ``wanted``. Raises Owned."""
    owner = Owner(manager, "Apply")
    want, have = leaves(wanted), leaves(live)
    conflicts = [
        (other.manager, "." + ".".join(path))
        for other, paths in managed.fields.items()
        if other != owner
        for path in sorted(paths & want.keys())
        if have.get(path) != want[path]
    ]
    if conflicts and not force:
        raise Owned(conflicts)
    differing = {path for path in want if have.get(path) != want[path]}
    fields = {
        other: paths if other == owner else paths - differing  # the same value may be shared
        for other, paths in managed.fields.items()
    }
    result = copy.deepcopy(live)
    for path in fields.get(owner, frozenset()) - want.keys():
        if not any(path in paths for other, paths in fields.items() if other != owner):
            _remove(result, path)
    for path, value in want.items():
        _put(result, path, copy.deepcopy(value))
    had, fields[owner] = fields.get(owner), frozenset(want)
    times = dict(managed.times)
    if had != fields[owner] or differing:
        times[owner] = now
    return result, _without_empty(fields, times)


def leaves(value: Json) -> dict[Path, Any]:
    """Every field that can be managed, with its value."""
    return {path: found for path, found in _walk(value, ()) if path not in _UNMANAGED}


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and (value or not path):
        for name, inner in value.items():
            if (*path, name) not in _UNMANAGED and inner is not None:
                yield from _walk(inner, (*path, name))
    else:
        yield path, value


def _without_empty(fields: Mapping[Owner, frozenset[Path]], times: Mapping[Owner, str]) -> Managed:
    kept = {owner: frozenset(paths) for owner, paths in fields.items() if paths}
    return Managed(kept, {owner: times[owner] for owner in kept})


def _put(target: Json, path: Path, value: Any) -> None:
    for name in path[:-1]:
        inner = target.get(name)
        if not isinstance(inner, dict):
            inner = target[name] = {}
        target = inner
    if value != {} or not isinstance(target.get(path[-1]), dict):  # an empty map takes nothing out of a full one
        target[path[-1]] = value


def _remove(target: Json, path: Path) -> None:
    for name in path[:-1]:
        target = target.get(name, {})
    target.pop(path[-1], None)


def _fields_v1(paths: frozenset[Path]) -> Json:
    tree: Json = {}
    for path in sorted(paths):
        inner = tree
        for name in path:
            inner = inner.setdefault(f"f:{name}", {})
    return tree
