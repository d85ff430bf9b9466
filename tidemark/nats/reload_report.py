"""What a connection reports about its reloads: to the application's callbacks and to metrics."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from tidemark.nats.errors import ReloadFailed
from tidemark.nats.installed_set import InstalledSet


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A reload that moved to another set. Digests are lower-case hex, as in ``InstalledSet``."""

    ca_sha256: str
    """Of the exact bytes of ``ca.crt``."""
    leaf_sha256: str
    """Of the DER of the leaf."""
    server: str
    """Host and port of the server that the new transport is connected to."""
    seconds: float
    """From reading the directory until the old transport is closed."""


OnReload = Callable[[Reloaded], Awaitable[None]]
OnReloadFailed = Callable[[ReloadFailed], Awaitable[None]]


class ReloadMetrics(Protocol):
    """``tidemark.nats.metrics.Metrics``, which only an application with prometheus_client can import."""

    def connected(self, installed: InstalledSet) -> None:
        """Record the set in use."""

    def count(self, outcome: Reloaded | ReloadFailed) -> None:
        """Count the end of a reload."""


@dataclass(frozen=True, slots=True)
class ReloadReporter:
    """Reports every reload that moved to another set, and every reload that failed."""

    on_reload: OnReload | None
    on_reload_failed: OnReloadFailed
    on_error: Callable[[Exception], Awaitable[None]]
    """Gets the exceptions of the two callbacks."""
    metrics: ReloadMetrics | None

    def connected(self, installed: InstalledSet) -> None:
        """Record the set in use."""
        if self.metrics is not None:
            self.metrics.connected(installed)

    async def report(self, outcome: Reloaded | ReloadFailed, installed: InstalledSet) -> None:
        """Report the end of a reload, after which ``installed`` is in use."""
        if self.metrics is not None:
            self.metrics.count(outcome)
        self.connected(installed)
        try:
            if isinstance(outcome, ReloadFailed):
                await self.on_reload_failed(outcome)
            elif self.on_reload is not None:
                await self.on_reload(outcome)
        except Exception as error:  # noqa: BLE001 # the application's own callback may raise any kind
            await self.on_error(error)
