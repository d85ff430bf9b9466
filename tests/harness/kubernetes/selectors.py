"""Label and field selectors (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/); pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.harness.kubernetes.status import bad_request

Json = dict[str, Any]
Selects = Callable[[Json], bool]

_SET = re.compile(r"(?P<key>\S+)\s+(?P<not>not)?in\s+\((?P<values>[^)]*)\)")
_FIELDS = {"metadata.name", "metadata.namespace", "status.phase", "spec.nodeName", "type"}


def selects(labels: str, fields: str) -> Selects:
    """Whether an object is selected by both. Raises Failure."""
    tests = [_label(one) for one in re.split(r",(?![^(]*\))", labels) if one.strip()]
    tests += [_field(one) for one in fields.split(",") if one]
    return lambda obj: all(test(obj) for test in tests)


def name_of(fields: str) -> str:
    """The one name that a field selector asks for: what RBAC's ``resourceNames`` is held against; "" for none."""
    names = [one.partition("=")[2].lstrip("=") for one in fields.split(",") if re.match(r"metadata\.name==?[^=]", one)]
    return names[0] if names else ""


def _label(text: str) -> Selects:
    text = text.strip()
    if found := _SET.fullmatch(text):
        values = {value.strip() for value in found["values"].split(",")}
        key, wanted = found["key"], not found["not"]
        return lambda obj: (_labels(obj).get(key) in values) is wanted
    if "!=" in text:
        key, value = text.split("!=")
        return lambda obj: _labels(obj).get(key) != value
    if "=" in text:
        key, _, value = text.partition("=")
        return lambda obj: _labels(obj).get(key) == value.lstrip("=")
    if text.startswith("!"):
        return lambda obj: text[1:] not in _labels(obj)
    return lambda obj: text in _labels(obj)


def _labels(obj: Json) -> Mapping[str, str]:
    labels: Mapping[str, str] = obj["metadata"].get("labels") or {}
    return labels


def _field(text: str) -> Selects:
    found = re.fullmatch(r"([\w.]+)(==|!=|=)(.*)", text)
    if found is None or found[1] not in _FIELDS:
        raise bad_request(f"field label not supported: {text}")
    path, operator, wanted = found[1].split("."), found[2], found[3]

    def test(obj: Json) -> bool:
        value: Any = obj
        for name in path:
            value = value.get(name, "") if isinstance(value, dict) else ""
        return (value == wanted) is (operator != "!=")

    return test
