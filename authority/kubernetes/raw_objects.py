"""Objects as the API server sends them: untyped JSON, which the reader judges.

A model that knows every field refuses a whole list where one field of one object is not as the model expects: an
object of another version of Kubernetes, or a hostile one (a date of the year 0 is enough). So objects that others may
write are read without a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightkube.core.resource import GlobalResource, NamespacedResourceG
from lightkube.resources import core_v1


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """The part of ``metadata`` that identifies an object and its version; "" where a field is missing."""

    namespace: str
    name: str
    resourceVersion: str  # noqa: N815 - the API's name


class RawObject:
    """A resource for lightkube whose content is the ``raw`` JSON."""

    def __init__(self, raw: object) -> None:
        self.raw = fields_of(raw)
        metadata = fields_of(self.raw.get("metadata"))
        self.metadata = ObjectMetadata(
            *(text_of(metadata.get(key)) for key in ("namespace", "name", "resourceVersion"))
        )


class ConfigMap(RawObject, NamespacedResourceG):
    """A ConfigMap."""

    _api_info = core_v1.ConfigMap._api_info


class Namespace(RawObject, GlobalResource):
    """A namespace."""

    _api_info = core_v1.Namespace._api_info


class Pod(RawObject, NamespacedResourceG):
    """A pod."""

    _api_info = core_v1.Pod._api_info


class Secret(RawObject, NamespacedResourceG):
    """A Secret."""

    _api_info = core_v1.Secret._api_info


def fields_of(value: object) -> Mapping[str, Any]:
    """The fields of a JSON object; none where ``value`` is no object."""
    return value if isinstance(value, dict) else {}


def items_of(value: object) -> Sequence[Mapping[str, Any]]:
    """The fields of each object in a JSON list; none where ``value`` is no list."""
    return [fields_of(each) for each in value] if isinstance(value, list) else []


def text_of(value: object) -> str:
    """A string; "" where ``value`` is none."""
    return value if isinstance(value, str) else ""
