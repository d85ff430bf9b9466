"""The one Kubernetes client: lightkube's requests, tried again where that helps, and errors that say what to do.

https://kubernetes.io/docs/reference/using-api/api-concepts/. What may pass by itself (no connection, 429, 5xx) is tried
again with growing pauses, never sooner than ``Retry-After`` asks; the rest is told by name at once. In a cluster the
token's file is read again whenever the API server no longer takes the one that was read last: the kubelet replaces it.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import httpx2
import msgspec
from lightkube.core.async_client import AsyncClient
from lightkube.core.decoders import decode_object, decode_status, decode_watch_event
from lightkube.core.exceptions import ApiError
from lightkube.core.generic_client import ALL_NS
from lightkube.types import PatchType

from authority.kubernetes.credentials import KubernetesAccess, connection
from authority.kubernetes.errors import _TOLD, ApiServerUnreachable, ObjectMissing, _retry_after, _told
from authority.kubernetes.transport import _Transport
from authority.support.clock_skew import ServerClock

FIELD_MANAGER = "tidemark-authority"
"""Who manages our fields in the objects that we apply, create and patch."""

PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before each further try of a request; the caller's own retries come after the last."""

REQUEST_SECONDS = 10.0

ALL_NAMESPACES = ALL_NS

_PAGE = 500  # objects in one answer of a list

_SILENCE = 15.0  # seconds beyond a watch's end after which its connection counts as dead

R = TypeVar("R")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """What a list showed at ``version``, from which a watch goes on."""

    version: str
    items: tuple[T, ...]


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


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[R]):
    """An event of a watch: ``ADDED``, ``MODIFIED``, ``DELETED``, or ``BOOKMARK``, which has a version and no object."""

    kind: str
    object: R | None
    version: str


class _Version(msgspec.Struct):
    resourceVersion: str  # noqa: N815 - the API's name


class _Marked(msgspec.Struct):
    """What a bookmark is for."""

    metadata: _Version


class _Lightkube(AsyncClient):
    """lightkube's client, with a watch that asks for bookmarks, ends where the server ends it, and notices silence."""

    async def events(self, selection: Selection[R], version: str, seconds: int) -> AsyncGenerator[WatchEvent[R], None]:
        wanted: dict[str, Any] = {
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            "allowWatchBookmarks": "true",
            "labelSelector": _selector(selection.labels),
            "fieldSelector": _selector(selection.fields),
        }
        # Cluster-scoped resources have no namespace to select.
        namespace = None if selection.resource.__name__ == "Namespace" else selection.namespace
        resource: Any = selection.resource
        wire: Any = self._client
        asked = self._client.prepare_request("list", resource, namespace=namespace, watch=True, params=wanted)
        asked.timeout = httpx2.Timeout(REQUEST_SECONDS, read=seconds + _SILENCE)
        response = await wire.send(self._client.build_adapter_request(asked), stream=True)
        try:
            if response.status_code != httpx2.codes.OK:
                await response.aread()
                wire.raise_for_status(response)
            async for line in _lines(response):
                event = decode_watch_event(line)
                if event.type == "ERROR":
                    raise ApiError(status=decode_status(bytes(event.object)))
                if event.type == "BOOKMARK":  # an empty object, which need not be a valid one of its kind
                    marked = msgspec.json.decode(event.object, type=_Marked)
                    yield WatchEvent(event.type, None, marked.metadata.resourceVersion)
                    continue
                found: Any = decode_object(bytes(event.object), resource)
                yield WatchEvent(event.type, found, found.metadata.resourceVersion)
        finally:
            await response.aclose()


async def _lines(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """What ends in a line feed: for httpx2 a line ends at U+0085 and others as well, which any annotation may hold."""
    begun = b""
    async for data in response.aiter_bytes():
        *lines, begun = (begun + data).split(b"\n")
        for line in lines:
            yield line


class KubernetesClient:
    """A connection to the API server; use as an asynchronous context. Safe for any number of tasks at once.

    Every request raises KubernetesError: Unreachable, LoginRefused, PermissionMissing, NamespaceTerminating, Missing,
    Exists, Conflict, Gone or Refused.
    """

    def __init__(self, access: KubernetesAccess, pauses: Sequence[float] = PAUSES) -> None:
        config, context = connection(access)
        self._dated = ServerClock()
        self._pauses = tuple(pauses)
        self._lightkube = _Lightkube(
            config,
            timeout=httpx2.Timeout(REQUEST_SECONDS),
            field_manager=FIELD_MANAGER,
            transport=_Transport(context, self._dated),
        )
        self.namespace = config.namespace
        """The namespace that the credentials belong to."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lightkube.close()

    @property
    def server_time(self) -> float | None:
        """What the API server's clock (its ``Date``) shows now; None before its first answer."""
        return self._dated.server_time

    async def get(self, resource: type[R], name: str, namespace: str) -> R | None:
        """The object; None where there is none."""
        lightkube: Any = self._lightkube
        try:
            found: R = await self._tried(
                f"get {_kind(resource)} {namespace}/{name}", lambda: lightkube.get(resource, name, namespace=namespace)
            )
        except ObjectMissing:
            return None
        return found

    async def list(self, selection: Selection[R], take: Callable[[R], T]) -> Listing[T]:
        """What ``take`` makes of every selected object, page by page."""
        lightkube: Any = self._lightkube
        where = {} if selection.resource.__name__ == "Namespace" else {"namespace": selection.namespace}
        labels, fields = dict(selection.labels), dict(selection.fields)

        async def read() -> Listing[T]:
            found = lightkube.list(selection.resource, chunk_size=_PAGE, labels=labels, fields=fields, **where)
            items = tuple([take(one) async for one in found])
            return Listing(str(found.resourceVersion), items)

        return await self._tried(f"list {selection.name}", read)

    async def create(self, new: R, namespace: str | None = None) -> R:
        """Create an object. Raises Exists where it stands already, perhaps by a try whose answer was lost."""
        lightkube: Any = self._lightkube
        where = {} if namespace is None else {"namespace": namespace}
        found: R = await self._tried(f"create {_named(new, namespace)}", lambda: lightkube.create(new, **where))
        return found

    async def apply(self, wanted: R, namespace: str) -> R:
        """Server-side apply, taking the fields over from whoever else manages them.

        Where ``wanted`` names a ``resourceVersion``, only over that version. Raises Conflict.
        """
        lightkube: Any = self._lightkube
        found: R = await self._tried(
            f"apply {_named(wanted, namespace)}", lambda: lightkube.apply(wanted, namespace=namespace, force=True)
        )
        return found

    async def replace(self, new: R, namespace: str) -> R:
        """Write an object over the version that it names. Raises Conflict."""
        lightkube: Any = self._lightkube
        found: R = await self._tried(
            f"update {_named(new, namespace)}", lambda: lightkube.replace(new, namespace=namespace)
        )
        return found

    async def annotate(self, resource: type[R], name: str, namespace: str, annotations: dict[str, str]) -> None:
        """Set these annotations and leave everything else."""
        await self._patch(resource, name, namespace, {"metadata": {"annotations": annotations}}, PatchType.MERGE)

    async def merge(self, resource: type[R], name: str, namespace: str, patch: dict[str, Any]) -> None:
        """A strategic merge patch: lists are merged by the key that the API names (``webhooks`` by ``name``).

        https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
        """
        await self._patch(resource, name, namespace, patch, PatchType.STRATEGIC)

    async def merge_status(self, resource: type[R], name: str, namespace: str, patch: dict[str, Any]) -> None:
        """A merge patch of this subresource, over the ``resourceVersion`` that it names. Raises Conflict."""
        await self._patch(resource, name, namespace, patch, PatchType.MERGE)

    async def _patch(
        self, resource: type[R], name: str, namespace: str, patch: dict[str, Any], patch_type: PatchType
    ) -> None:
        lightkube: Any = self._lightkube
        await self._tried(
            f"patch {_kind(resource)} {namespace}/{name}",
            lambda: lightkube.patch(resource, name, patch, namespace=namespace, patch_type=patch_type),
        )

    async def delete(self, resource: type[R], name: str, namespace: str) -> None:
        """Delete an object; what is gone already is no error."""
        lightkube: Any = self._lightkube
        what = f"delete {_kind(resource)} {namespace}/{name}"
        try:
            await self._tried(what, lambda: lightkube.delete(resource, name, namespace=namespace))
        except ObjectMissing:
            return

    async def watch(self, selection: Selection[R], version: str, seconds: int) -> AsyncGenerator[WatchEvent[R], None]:
        """What happens after ``version``, for at most about so many seconds; tried once. Raises Gone."""
        try:
            async with aclosing(self._lightkube.events(selection, version, seconds)) as happenings:
                async for happening in happenings:
                    yield happening
        except _TOLD as error:
            raise _told(f"watch {selection.name}", error) from None

    async def _tried(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Send it until it is answered by more than a complaint."""
        for pause in (*self._pauses, None):
            try:
                return await call()
            except _TOLD as error:
                told = _told(what, error)
                if pause is None or not isinstance(told, ApiServerUnreachable):
                    raise told from None
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, hides nothing
                await asyncio.sleep(max(jitter * pause, _retry_after(error)))
        raise AssertionError("unreachable: the last try either returns or raises")


def _selector(pairs: tuple[tuple[str, str], ...]) -> str | None:
    return ",".join(f"{name}={value}" for name, value in pairs) or None


def _kind(resource: type[object]) -> str:
    return resource.__name__.lower()


def _named(one: object, namespace: str | None) -> str:
    metadata = getattr(one, "metadata", None)
    name = getattr(metadata, "name", None) or ""
    return f"{_kind(type(one))} {namespace}/{name}" if namespace else _kind(type(one))
