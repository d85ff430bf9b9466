"""What a connection reported about its reloads, for tests."""

from collections.abc import Awaitable, Callable
from typing import Any

from tidemark.nats import Reloaded, ReloadFailed


class ReloadOutcomes:
    """Collects what the callbacks of a connection get."""

    def __init__(self) -> None:
        self.reloaded: list[Reloaded] = []
        self.failed: list[ReloadFailed] = []
        self.errors: list[Exception] = []

    @property
    def options(self) -> dict[str, Any]:
        """The callbacks, as options of ``connect``."""
        return {
            "on_reload": _append(self.reloaded),
            "on_reload_failed": _append(self.failed),
            "error_cb": _append(self.errors),
        }


def _append(collected: list[Any]) -> Callable[[Any], Awaitable[None]]:
    async def append(outcome: object) -> None:
        collected.append(outcome)

    return append
