"""Objects as the API server sends them, whatever is in them.

A model that knows every field refuses a whole list where one field of one object is not as it knows it: of another
version of Kubernetes, or of somebody who tries (an instant of the year 0 is enough). So nothing is expected here but
JSON where others may write the objects; who reads one, judges it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightkube.core.resource import GlobalResource, NamespacedResourceG
from lightkube.resources import core_v1


@dataclass(frozen=True, slots=True)
class Known:
    """What every object is known by; "" where it does not say it."""

    namespace: str
    name: str
    resourceVersion: str  # noqa: N815 - the API's name


class AnyObject:
    """What a resource of lightkube is made of here: ``raw`` JSON."""

    def __init__(self, raw: object) -> None:
        self.raw = table(raw)
        metadata = table(self.raw.get("metadata"))
        self.metadata = Known(*(text(metadata.get(key)) for key in ("namespace", "name", "resourceVersion")))


class ConfigMap(AnyObject, NamespacedResourceG):
    """A ConfigMap."""

    _api_info = core_v1.ConfigMap._api_info


class Namespace(AnyObject, GlobalResource):
    """A namespace."""

    _api_info = core_v1.Namespace._api_info


class Pod(AnyObject, NamespacedResourceG):
    """A pod."""

    _api_info = core_v1.Pod._api_info


class Secret(AnyObject, NamespacedResourceG):
    """A Secret."""

    _api_info = core_v1.Secret._api_info


def table(value: object) -> Mapping[str, Any]:
    """An object's fields; none where it is no object."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> Sequence[Mapping[str, Any]]:
    """The objects of a list, each as ``table`` has it; none where it is no list."""
    return [table(each) for each in value] if isinstance(value, list) else []


def text(value: object) -> str:
    """A text; "" where it is none."""
    return value if isinstance(value, str) else ""
