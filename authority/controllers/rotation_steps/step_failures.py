"""Which steps of the rotation failed when they were last tried, and when each may be tried again."""

from collections.abc import Iterator
from contextlib import contextmanager

from authority.controllers.context import ControllerContext
from authority.issuer.interface import IssuerError
from authority.journal.interface import JournalConflict, JournalError
from authority.publishers.interface import PublishError
from authority.rotation.actions import Step
from authority.rotation.compose import BundleFull
from authority.rotation.events import AppendConflict, StepFailed
from authority.rotation.operator_requests import RotationRefused
from authority.signer.interface import SignerError
from authority.support.backoff import Backoff
from authority.support.clock_skew import ClockDiffers
from tidemark.bundle import StatementError
from tidemark.verify import BundleRejected

STEP_ERRORS = (
    IssuerError,
    SignerError,
    JournalError,
    PublishError,
    BundleRejected,
    BundleFull,
    StatementError,
    RotationRefused,
    ClockDiffers,
)
"""What a step may fail with; any other error is a fault of the program, and ends it."""


class StepAborted(Exception):
    """A step failed; the failure was reported, and its backoff has begun."""


class StepFailures:
    """Reports failures of steps, and has each failed step back off for a while."""

    def __init__(self, context: ControllerContext) -> None:
        self._context = context
        self._backoff = Backoff[Step](context.heartbeat)
        self._failures: dict[Step, StepFailed] = {}

    @property
    def failures(self) -> dict[Step, StepFailed]:
        """Steps that failed when they were last tried."""
        return dict(self._failures)

    def forget(self) -> None:
        """Drop the failures of an earlier leadership; backoffs go on."""
        self._failures.clear()

    def backing_off(self) -> frozenset[Step]:
        """Steps that failed a moment ago, and are not to be tried yet."""
        return self._backoff.backing_off()

    def seconds_left(self) -> float | None:
        """Seconds until the next of them may be tried again; None where no step is backing off."""
        return self._backoff.seconds_left()

    @contextmanager
    def attempt(self, step: Step) -> Iterator[None]:
        """Try a step: what the block raises is the step's failure. Raises StepAborted."""
        try:
            yield
        except JournalConflict as error:
            self._context.observe(AppendConflict(self._context.now(), step, str(error)))
            self._backoff.failed(step)
            raise StepAborted from error
        except STEP_ERRORS as error:
            failure = StepFailed(self._context.now(), step, "", str(error), self._backoff.failed(step))
            self._failures[step] = failure
            self._context.observe(failure)
            raise StepAborted from error
        self._backoff.succeeded(step)
        self._failures.pop(step, None)
