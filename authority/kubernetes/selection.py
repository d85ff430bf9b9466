"""Which objects a list or a watch is about, and what a list found."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lightkube.core.generic_client import ALL_NS

ALL_NAMESPACES = ALL_NS

R = TypeVar("R")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Selection(Generic[R]):
    """Objects of one resource: in one namespace or ``ALL_NAMESPACES``, selected by labels and fields."""

    resource: type[R]
    namespace: str = ALL_NAMESPACES
    labels: tuple[tuple[str, str], ...] = ()
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """For messages: ``pods in nats``."""
        kind = f"{self.resource.__name__.lower()}s"
        return kind if self.namespace == ALL_NAMESPACES else f"{kind} in {self.namespace}"

    @property
    def scope(self) -> dict[str, Any]:
        """The namespace as lightkube takes it; a cluster-scoped resource has none."""
        return {} if self.resource.__name__ == "Namespace" else {"namespace": self.namespace}


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """What a list found."""

    version: str
    """The ``resourceVersion`` at which the list is complete: a watch continues from there."""
    items: tuple[T, ...]
