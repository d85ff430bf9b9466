"""A selection of objects, kept up to date: listed once, then watched, and listed anew where the server forgot too much.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes. Each watch is ended by the
server after a while and begun again where it stood (bookmarks keep that place fresh), so that a connection that died
silently, or a permission that was taken away, is noticed within ``STALE_SECONDS``.
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
"""A selection that the server has not confirmed for so long is not known any more."""

_LONGEST_PAUSE = 15.0
_HASTY = 0.5  # a watch that ended sooner, with nothing to say, is not begun again at once

R = TypeVar("R")
T = TypeVar("T")

Failing = Callable[[str, str, float], None]
"""Takes what could not be watched, why, and in how many seconds it is tried again."""


class Informer(Generic[R, T]):
    """``take`` makes of each object what is kept of it; ``on_change`` is called after every change.

    ``run`` is its one task. ``on_failure`` must not raise and must not wait.
    """

    def __init__(
        self,
        client: KubernetesClient,
        selection: Selection[R],
        take: Callable[[R], T],
        on_change: Callable[[], None],
        on_failure: Failing,
    ) -> None:
        self._client = client
        self._selection = selection
        self._take = take
        self._on_change = on_change
        self._on_failure = on_failure
        self._objects: dict[tuple[str, str], T] = {}
        self._confirmed: float | None = None
        self._version: str | None = None
        self._pauses = Backoff[str](_LONGEST_PAUSE)

    @property
    def known(self) -> tuple[T, ...] | None:
        """What is kept of the selected objects; None before they were listed, and while nobody can say."""
        return tuple(self._objects.values()) if self.is_known else None

    @property
    def is_known(self) -> bool:
        """Whether the objects were listed, and the server has confirmed since that this is so."""
        return self._confirmed is not None and asyncio.get_running_loop().time() - self._confirmed <= STALE_SECONDS

    def find(self, namespace: str, name: str) -> T | None:
        """What is kept of one object; None where it is not selected."""
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
                pause = self._pauses.failed("gone")
            except KubernetesError as error:
                pause = self._pauses.failed("watch")
                self._on_failure(self._selection.name, str(error), pause)
            await asyncio.sleep(pause)

    async def _list(self) -> None:
        listing = await self._client.list(self._selection, lambda one: (_key(one), self._take(one)))
        self._objects = dict(listing.items)
        self._version = listing.version
        self._confirm()
        self._on_change()

    async def _follow(self) -> float:
        """One watch to its end; returns how many seconds to wait before the next one."""
        began = asyncio.get_running_loop().time()
        seen = 0
        watching = self._client.watch(self._selection, self._version or "", WATCH_SECONDS)
        async with aclosing(watching) as happenings:
            async for happening in happenings:
                seen += 1
                self._take_up(happening)
        self._confirm()  # the server ended it in good order
        if not seen and asyncio.get_running_loop().time() - began < _HASTY:
            return self._pauses.failed("hasty")
        for thing in ("watch", "gone", "hasty"):
            self._pauses.succeeded(thing)
        return 0.0

    def _take_up(self, happening: WatchEvent[R]) -> None:
        self._confirm()
        self._version = happening.version or self._version
        if happening.object is None:
            return  # a bookmark
        key = _key(happening.object)
        if happening.kind == "DELETED":
            self._objects.pop(key, None)
        else:
            self._objects[key] = self._take(happening.object)
        self._on_change()

    def _confirm(self) -> None:
        self._confirmed = asyncio.get_running_loop().time()


def _key(one: Any) -> tuple[str, str]:
    return one.metadata.namespace or "", one.metadata.name or ""
