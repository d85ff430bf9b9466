"""The one Kubernetes client: lightkube's requests, retried where that helps, and errors that say what to do.

https://kubernetes.io/docs/reference/using-api/api-concepts/. What may pass by itself (no connection, 429, 5xx) is
retried with growing pauses, never sooner than ``Retry-After`` asks; every other refusal is raised at once as the error
that names it. In a cluster lightkube reads the token's file again whenever the API server no longer accepts the last
token: the kubelet replaces the file.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Self, TypeVar

import httpx2
from lightkube.types import PatchType

from authority.kubernetes.credentials import KubernetesAccess, connection
from authority.kubernetes.errors import (
    REQUEST_FAILURES,
    ApiServerUnreachable,
    ObjectMissing,
    retry_after,
    translate_error,
)
from authority.kubernetes.selection import Listing, Selection
from authority.kubernetes.transport import KubernetesTransport
from authority.kubernetes.watch import REQUEST_SECONDS, WatchEvent, WatchingClient
from authority.support.backoff import REQUEST_PAUSES, TransientError, retry
from authority.support.clock_skew import ServerClock

FIELD_MANAGER = "tidemark-authority"
"""Who manages our fields in the objects that we apply, create and patch."""

_PAGE = 500  # objects in one answer of a list

R = TypeVar("R")

T = TypeVar("T")


class KubernetesClient:
    """A connection to the API server; use as an asynchronous context. Safe for any number of tasks at once.

    Every request raises KubernetesError: ApiServerUnreachable, KubernetesLoginRefused, KubernetesPermissionMissing,
    NamespaceTerminating, ObjectMissing, ObjectExists, ObjectConflict, ResourceVersionExpired or ApiServerRefused.
    ``pauses`` are the seconds between tries.
    """

    def __init__(self, access: KubernetesAccess, pauses: Sequence[float] = REQUEST_PAUSES) -> None:
        config, context = connection(access)
        self._clock = ServerClock()
        self._pauses = tuple(pauses)
        self._lightkube = WatchingClient(
            config,
            timeout=httpx2.Timeout(REQUEST_SECONDS),
            field_manager=FIELD_MANAGER,
            transport=KubernetesTransport(context, self._clock),
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
        return self._clock.server_time

    async def get(self, resource: type[R], name: str, namespace: str) -> R | None:
        """The object; None where there is none."""
        lightkube: Any = self._lightkube
        try:
            found: R = await self._request(
                f"get {_kind(resource)} {namespace}/{name}", lambda: lightkube.get(resource, name, namespace=namespace)
            )
        except ObjectMissing:
            return None
        return found

    async def list(self, selection: Selection[R], convert: Callable[[R], T]) -> Listing[T]:
        """What ``convert`` makes of every selected object, page by page."""
        lightkube: Any = self._lightkube
        labels, fields = dict(selection.labels), dict(selection.fields)

        async def read() -> Listing[T]:
            found = lightkube.list(
                selection.resource, chunk_size=_PAGE, labels=labels, fields=fields, **selection.scope
            )
            items = tuple([convert(each) async for each in found])
            return Listing(str(found.resourceVersion), items)

        return await self._request(f"list {selection.name}", read)

    async def create(self, new: R, namespace: str | None = None) -> R:
        """Create an object. Raises ObjectExists where it exists, perhaps by a try whose answer was lost."""
        lightkube: Any = self._lightkube
        where = {} if namespace is None else {"namespace": namespace}
        found: R = await self._request(f"create {_name_of(new, namespace)}", lambda: lightkube.create(new, **where))
        return found

    async def apply(self, wanted: R, namespace: str) -> R:
        """Server-side apply with ``force``: fields that another manager owns become ours.

        Where ``wanted`` names a ``resourceVersion``, only over that version. Raises ObjectConflict.
        https://kubernetes.io/docs/reference/using-api/server-side-apply/
        """
        lightkube: Any = self._lightkube
        found: R = await self._request(
            f"apply {_name_of(wanted, namespace)}", lambda: lightkube.apply(wanted, namespace=namespace, force=True)
        )
        return found

    async def replace(self, new: R, namespace: str) -> R:
        """Write an object over the version that it names. Raises ObjectConflict."""
        lightkube: Any = self._lightkube
        found: R = await self._request(
            f"update {_name_of(new, namespace)}", lambda: lightkube.replace(new, namespace=namespace)
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
        """A merge patch of this subresource, over the ``resourceVersion`` that it names. Raises ObjectConflict."""
        await self._patch(resource, name, namespace, patch, PatchType.MERGE)

    async def _patch(
        self, resource: type[R], name: str, namespace: str, patch: dict[str, Any], patch_type: PatchType
    ) -> None:
        lightkube: Any = self._lightkube
        await self._request(
            f"patch {_kind(resource)} {namespace}/{name}",
            lambda: lightkube.patch(resource, name, patch, namespace=namespace, patch_type=patch_type),
        )

    async def delete(self, resource: type[R], name: str, namespace: str) -> None:
        """Delete an object; what is gone already is no error."""
        lightkube: Any = self._lightkube
        what = f"delete {_kind(resource)} {namespace}/{name}"
        try:
            await self._request(what, lambda: lightkube.delete(resource, name, namespace=namespace))
        except ObjectMissing:
            return

    async def watch(self, selection: Selection[R], version: str, seconds: int) -> AsyncGenerator[WatchEvent[R], None]:
        """The changes after ``version``, for at most about so many seconds; not retried.

        Raises ResourceVersionExpired where the server has forgotten that version.
        """
        try:
            async with aclosing(self._lightkube.events(selection, version, seconds)) as events:
                async for event in events:
                    yield event
        except REQUEST_FAILURES as failure:
            raise translate_error(f"watch {selection.name}", failure) from None

    async def _request(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Send a request, and retry it while the server cannot be reached; ``what`` names it in errors."""

        async def send() -> T:
            try:
                return await call()
            except REQUEST_FAILURES as failure:
                error = translate_error(what, failure)
                if isinstance(error, ApiServerUnreachable):
                    raise TransientError(error, retry_after(failure)) from None
                raise error from None

        return await retry(send, self._pauses)


def _kind(resource: type[object]) -> str:
    return resource.__name__.lower()


def _name_of(each: object, namespace: str | None) -> str:
    metadata = getattr(each, "metadata", None)
    name = getattr(metadata, "name", None) or ""
    return f"{_kind(type(each))} {namespace}/{name}" if namespace else _kind(type(each))
