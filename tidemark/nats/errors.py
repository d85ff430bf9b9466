"""What can go wrong for an application, grouped by what it can do about it."""

import nats.errors


class SetUnreadable(Exception):
    """The agent's output directory holds no whole set: wait for the agent, or look at it. Names the file and why."""


class ConnectFailed(nats.errors.NoServersError):
    """No server could be connected to; the message has every server's own reason."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__()
        self.reasons = reasons

    def __str__(self) -> str:
        tried = "; ".join(f"{server}: {reason}" for server, reason in self.reasons.items())
        return f"no server could be connected to: {tried or 'there was none to try'}"


class ReloadFailed(Exception):
    """A reload did not happen; the connection goes on as it was before.

    ``step`` is the one that failed: ``read`` (the directory), ``connect`` (no server took the new set), ``subscribe``
    (the new connection did not confirm the subscriptions) or ``closed`` (the application closed the connection).
    """

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"reload failed at step {step!r}: {reason}; the connection stays as it was before")
        self.step = step
        self.reason = reason


class OldConnectionBroke(nats.errors.Error):
    """The old connection broke in the last milliseconds of a swap: core messages in flight to it may be lost."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the old connection broke while it was handed over: {reason}")
