"""Errors that an application meets, grouped by what it can do about each."""

import nats.errors


class SetUnreadable(Exception):
    """The agent's output directory holds no whole set; the message names the file and the fault.

    Wait for the agent; where the directory stays like this, read the agent's status.
    """


class ConnectFailed(nats.errors.NoServersError):
    """Every server failed; ``reasons`` has the reason of each, by URL without login, and so has the message."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__()
        self.reasons = reasons

    def __str__(self) -> str:
        tried = "; ".join(f"{server}: {reason}" for server, reason in self.reasons.items())
        return f"no server could be connected to: {tried or 'there was none to try'}"


class ReloadFailed(Exception):
    """A reload failed; the connection stays as it was before.

    ``step`` is the step that failed: ``read`` (the directory), ``connect`` (no server accepted the new set),
    ``subscribe`` (the new transport did not confirm the subscriptions) or ``closed`` (the application closed the
    connection). ``reason`` is a phrase for people.
    """

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"reload failed at step {step!r}: {reason}; the connection stays as it was before")
        self.step = step
        self.reason = reason


class OldConnectionBroke(nats.errors.Error):
    """The old transport broke during the hand-over, whose end succeeded: core messages in flight to it may be lost."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the old connection broke while it was handed over: {reason}")
