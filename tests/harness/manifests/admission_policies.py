"""Admission policies as the API server applies them, evaluated by Google's CEL runtime.

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy: rules choose the requests, then
match conditions; an expression that ends in an error denies (``failurePolicy: Fail``); variables are named expressions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cel_expr_python import cel

from tests.harness.manifests.build import Object


@dataclass(frozen=True)
class Request:
    """A request to the API server; ``resource`` may have a subresource, such as ``pods/exec``."""

    user: str
    operation: str
    resource: str
    namespace: Object
    object: Object | None = None
    old: Object | None = None

    def data(self) -> dict[str, Any]:
        _, _, subresource = self.resource.partition("/")
        request = {
            "userInfo": {"username": self.user},
            "operation": self.operation,
            "namespace": self.namespace["metadata"]["name"],
        }
        if subresource:
            request["subResource"] = subresource
        return {
            "request": request,
            "object": self.object,
            "oldObject": self.old,
            "namespaceObject": self.namespace,
        }


def denials(policy: Object, request: Request) -> list[str]:
    """The reasons why the policy denies the request; empty where it admits the request or does not match it."""
    spec = policy["spec"]
    assert spec["failurePolicy"] == "Fail"
    if not any(_matches(rule, request) for rule in spec["matchConstraints"]["resourceRules"]):
        return []
    data = request.data()
    if not all(evaluate(condition["expression"], data) for condition in spec.get("matchConditions", [])):
        return []
    found: list[str] = []
    try:
        data["variables"] = variables = dict[str, Any]()
        for variable in spec.get("variables", []):
            variables[variable["name"]] = evaluate(variable["expression"], data)
        for validation in spec["validations"]:
            if evaluate(validation["expression"], data) is not True:
                message = validation.get("message") or evaluate(validation["messageExpression"], data)
                found.append(str(message))
    except EvaluationError as error:
        found.append(f"error: {error}")
    return found


class EvaluationError(Exception):
    """The expression has no value."""


def _matches(rule: Object, request: Request) -> bool:
    resource, _, subresource = request.resource.partition("/")
    wanted = {request.resource} | ({f"{resource}/*"} if subresource else set())
    return request.operation in rule["operations"] and bool(wanted & set(rule["resources"]))


def evaluate(expression: str, data: Mapping[str, Any]) -> Any:
    """The value of a CEL expression. Raises EvaluationError."""
    names = dict.fromkeys(data, cel.Type.DYN)
    try:
        value = cel.NewEnv(variables=names).compile(expression).eval(data=dict(data))
    except RuntimeError as error:
        raise EvaluationError(f"{expression}: {error}") from None
    if value.type() == cel.Type.ERROR:
        raise EvaluationError(f"{expression}: {value.value()}")
    return value.plain_value()
