"""A local copy of selected objects: listed once, then watched, and listed again where the server forgot the version.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes. The server ends each
watch after a while, and the next one begins at the last version (bookmarks keep that version fresh): a connection that
died silently, or a permission that was taken away, is noticed within ``STALE_SECONDS``.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import KubernetesError, ResourceVersionExpired
from authority.kubernetes.selection import Selection
from authority.kubernetes.watch import WatchEvent
from authority.support.backoff import Backoff

WATCH_SECONDS = 60

STALE_SECONDS = 90.0
"""A copy that the server has not confirmed for so long does not count any more."""

_LONGEST_PAUSE = 15.0
_SHORT_SECONDS = 0.5  # after a watch that ended sooner, without an event, there is a pause

R = TypeVar("R")
T = TypeVar("T")

WatchFailed = Callable[[str, str, float], None]
"""Takes what could not be watched, why, and the seconds until the next try."""


class Informer(Generic[R, T]):
    """Keeps what ``convert`` makes of each selected object; ``on_change`` is called after every change.

    ``run`` is its one task. ``on_failure`` must not raise and must not wait. Nine fields: what to watch, what to call,
    and the copy with its version and age.
    """

    def __init__(
        self,
        client: KubernetesClient,
        selection: Selection[R],
        convert: Callable[[R], T],
        on_change: Callable[[], None],
        on_failure: WatchFailed,
    ) -> None:
        self._client = client
        self._selection = selection
        self._convert = convert
        self._on_change = on_change
        self._on_failure = on_failure
        self._objects: dict[tuple[str, str], T] = {}
        self._confirmed: float | None = None
        self._version: str | None = None
        self._backoff = Backoff[str](_LONGEST_PAUSE)

    @property
    def objects(self) -> tuple[T, ...] | None:
        """The copies of the selected objects; None while they are not synced."""
        return tuple(self._objects.values()) if self.is_synced else None

    @property
    def is_synced(self) -> bool:
        """Whether the objects were listed, and the server has confirmed the copy within ``STALE_SECONDS``."""
        return self._confirmed is not None and asyncio.get_running_loop().time() - self._confirmed <= STALE_SECONDS

    def find(self, namespace: str, name: str) -> T | None:
        """The copy of one object; None where it is not selected."""
        return self._objects.get((namespace, name))

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                if self._version is None:
                    await self._list()
                pause = await self._follow()
            except ResourceVersionExpired:
                self._version = None
                pause = self._backoff.failed("expired")
            except KubernetesError as error:
                pause = self._backoff.failed("watch")
                self._on_failure(self._selection.name, str(error), pause)
            await asyncio.sleep(pause)

    async def _list(self) -> None:
        listing = await self._client.list(self._selection, lambda each: (_key(each), self._convert(each)))
        self._objects = dict(listing.items)
        self._version = listing.version
        self._confirm()
        self._on_change()

    async def _follow(self) -> float:
        """One watch to its end; returns how many seconds to wait before the next one."""
        began = asyncio.get_running_loop().time()
        events_seen = 0
        watching = self._client.watch(self._selection, self._version or "", WATCH_SECONDS)
        async with aclosing(watching) as events:
            async for event in events:
                events_seen += 1
                self._apply(event)
        # The server ended the watch in good order: nothing was missed.
        self._confirm()
        if not events_seen and asyncio.get_running_loop().time() - began < _SHORT_SECONDS:
            return self._backoff.failed("short")
        for cause in ("watch", "expired", "short"):
            self._backoff.succeeded(cause)
        return 0.0

    def _apply(self, event: WatchEvent[R]) -> None:
        self._confirm()
        self._version = event.version or self._version
        if event.object is None:
            # A bookmark has no object; its version is all that counts.
            return
        key = _key(event.object)
        if event.kind == "DELETED":
            self._objects.pop(key, None)
        else:
            self._objects[key] = self._convert(event.object)
        self._on_change()

    def _confirm(self) -> None:
        self._confirmed = asyncio.get_running_loop().time()


def _key(each: Any) -> tuple[str, str]:
    return each.metadata.namespace or "", each.metadata.name or ""
