"""Pods as the API server sends them, whatever is in them.

A model that knows every field refuses a whole list where one field of one pod is not as it knows it: of another version
of Kubernetes, or of somebody who tries. So nothing is expected of a pod here but JSON; who reads it, judges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightkube.core.resource import NamespacedResourceG
from lightkube.resources import core_v1


@dataclass(frozen=True, slots=True)
class PodMeta:
    """What every object is known by; "" where the pod does not say it."""

    namespace: str
    name: str
    resourceVersion: str  # noqa: N815 - the API's name


class Pod(NamespacedResourceG):
    """A resource of lightkube, whose objects are ``raw`` JSON."""

    _api_info = core_v1.Pod._api_info

    def __init__(self, raw: object) -> None:
        self.raw = table(raw)
        metadata = table(self.raw.get("metadata"))
        self.metadata = PodMeta(*(text(metadata.get(key)) for key in ("namespace", "name", "resourceVersion")))


def table(value: object) -> Mapping[str, Any]:
    """An object's fields; none where it is no object."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> Sequence[Mapping[str, Any]]:
    """The objects of a list, each as ``table`` has it; none where it is no list."""
    return [table(each) for each in value] if isinstance(value, list) else []


def text(value: object) -> str:
    """A text; "" where it is none."""
    return value if isinstance(value, str) else ""
