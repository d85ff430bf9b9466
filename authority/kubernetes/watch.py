"""lightkube's client with a watch that asks for bookmarks, ends where the server ends it, and notices silence.

lightkube's own watch does none of these. This module and ``raw_objects`` are the only ones that use what lightkube
keeps private.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2
import msgspec
from lightkube.core.async_client import AsyncClient
from lightkube.core.decoders import decode_object, decode_status, decode_watch_event
from lightkube.core.exceptions import ApiError

from authority.kubernetes.selection import Selection

REQUEST_SECONDS = 10.0

_SILENCE = 15.0  # seconds beyond a watch's end after which its connection counts as dead

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[R]):
    """An event of a watch: ``ADDED``, ``MODIFIED``, ``DELETED``, or ``BOOKMARK``, which has a version and no object."""

    kind: str
    object: R | None
    version: str


class _Metadata(msgspec.Struct):
    resourceVersion: str  # noqa: N815 - the API's name


class _Bookmark(msgspec.Struct):
    """The one field of a bookmark that counts; the rest of the object is empty, and need not be a valid one."""

    metadata: _Metadata


class WatchingClient(AsyncClient):
    """lightkube's client and ``events``."""

    async def events(self, selection: Selection[R], version: str, seconds: int) -> AsyncGenerator[WatchEvent[R], None]:
        """The changes after ``version``, until the server ends the watch. Raises what lightkube raises."""
        parameters: dict[str, Any] = {
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            "allowWatchBookmarks": "true",
            "labelSelector": _selector(selection.labels),
            "fieldSelector": _selector(selection.fields),
        }
        resource: Any = selection.resource
        http: Any = self._client
        request = self._client.prepare_request("list", resource, watch=True, params=parameters, **selection.scope)
        request.timeout = httpx2.Timeout(REQUEST_SECONDS, read=seconds + _SILENCE)
        response = await http.send(self._client.build_adapter_request(request), stream=True)
        try:
            if response.status_code != httpx2.codes.OK:
                await response.aread()
                http.raise_for_status(response)
            async for line in _lines(response):
                yield _event(line, resource)
        finally:
            await response.aclose()


def _event(line: bytes, resource: Any) -> WatchEvent[Any]:
    event = decode_watch_event(line)
    if event.type == "ERROR":
        raise ApiError(status=decode_status(bytes(event.object)))
    if event.type == "BOOKMARK":
        bookmark = msgspec.json.decode(event.object, type=_Bookmark)
        return WatchEvent(event.type, None, bookmark.metadata.resourceVersion)
    found: Any = decode_object(bytes(event.object), resource)
    return WatchEvent(event.type, found, found.metadata.resourceVersion)


async def _lines(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Lines that end in a line feed: for httpx2 a line also ends at U+0085 and others, which an annotation may hold."""
    unfinished = b""
    async for data in response.aiter_bytes():
        *lines, unfinished = (unfinished + data).split(b"\n")
        for line in lines:
            yield line


def _selector(pairs: tuple[tuple[str, str], ...]) -> str | None:
    return ",".join(f"{name}={value}" for name, value in pairs) or None
