"""Refusals of an API server: ``Status`` objects (https://kubernetes.io/docs/reference/kubernetes-api/)."""

from collections.abc import Sequence
from typing import Any

from tests.harness.kubernetes.accounts import Wish

Json = dict[str, Any]


class StatusFailure(Exception):
    """A request that is refused; ``body`` is the ``Status`` that answers it."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details or {},
            "code": code,
        }


def not_found(plural: str, name: str) -> StatusFailure:
    return StatusFailure(404, "NotFound", f'{plural} "{name}" not found', {"name": name, "kind": plural})


def already_exists(plural: str, name: str) -> StatusFailure:
    return StatusFailure(409, "AlreadyExists", f'{plural} "{name}" already exists', {"name": name, "kind": plural})


def stale(plural: str, name: str) -> StatusFailure:
    return StatusFailure(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {plural} "{name}": the object has been modified; please apply your changes '
        f"to the latest version and try again",
        {"name": name, "kind": plural},
    )


def owned(plural: str, name: str, conflicts: Sequence[tuple[str, str]]) -> StatusFailure:
    """Server-side apply: fields (``.data.x``) that others manage, each with its manager."""
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}" using v1', "field": field}
        for manager, field in conflicts
    ]
    described = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    details = {"name": name, "kind": plural, "causes": causes}
    return StatusFailure(409, "Conflict", f"Apply failed with {len(causes)} conflict(s): {described}", details)


def invalid(kind: str, name: str, field: str, complaint: str) -> StatusFailure:
    details = {"name": name, "kind": kind, "causes": [{"reason": "FieldValueInvalid", "field": field}]}
    return StatusFailure(422, "Invalid", f'{kind} "{name}" is invalid: {field}: {complaint}', details)


def bad_request(message: str) -> StatusFailure:
    return StatusFailure(400, "BadRequest", message)


def forbidden(user: str, wish: Wish) -> StatusFailure:
    where = f'in the namespace "{wish.namespace}"' if wish.namespace else "at the cluster scope"
    cannot = f'User "{user}" cannot {wish.verb} resource "{wish.resource}" in API group "{wish.group}" {where}'
    details = {"name": wish.name, "kind": wish.resource, "group": wish.group}
    return StatusFailure(403, "Forbidden", f'{wish.resource} "{wish.name}" is forbidden: {cannot}', details)


def terminating(plural: str, name: str, namespace: str) -> StatusFailure:
    message = f"unable to create new content in namespace {namespace} because it is being terminated"
    cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated"}
    details = {"name": name, "kind": plural, "causes": [cause | {"field": "metadata.namespace"}]}
    return StatusFailure(403, "Forbidden", f'{plural} "{name}" is forbidden: {message}', details)


def expired(asked: int, oldest: int) -> StatusFailure:
    return StatusFailure(410, "Expired", f"too old resource version: {asked} ({oldest})")


def unauthorized() -> StatusFailure:
    return StatusFailure(401, "Unauthorized", "Unauthorized")
