"""Candidates that were refused: each is counted and reported once, and all are judged again later."""

from dataclasses import replace

from agent.clocks import Clocks
from agent.loop.journey import JourneyProgress
from agent.loop.timing import RetryPolicy
from agent.loop.wakeup import Wakeup
from agent.reporting.recorder import Recorder
from agent.selection.select import Choice, Refusal
from tidemark.verify import Mark, Reason

_LEAF_RETRY_SECONDS = 10.0
"""How soon a leaf that is not valid yet is judged again."""
_SOONEST_RETRY_SECONDS = 1.0


class Rejections:
    """Reports the refusals of each judgement and sets the time of the next one."""

    def __init__(self, recorder: Recorder, wakeup: Wakeup, clocks: Clocks, policy: RetryPolicy) -> None:
        self._recorder = recorder
        self._wakeup = wakeup
        self._clocks = clocks
        self._policy = policy
        self._last: tuple[Refusal, ...] = ()

    def report(self, choice: Choice, progress: JourneyProgress, in_place: Mark | None) -> None:
        """Report what is refused; ``in_place`` is the installed statement (None: no set is installed)."""
        refusals = (*choice.refused, *([choice.leaf_refused] if choice.leaf_refused else []))
        self._count(choice, progress, refusals)
        for refusal in refusals:
            if refusal.reason == Reason.SUPERSEDED:
                continue  # that a source lags behind another is normal
            progress.rejection = progress.rejection or refusal
            progress.next_may_overlap |= refusal.reason == Reason.OVERLAP and progress.mark not in (None, in_place)
            self._schedule(refusal)
        if progress.rejection is not None:
            self._recorder.rejection_changed(progress.rejection)
            self._wakeup.wake_within(self._policy.rejudge_after)

    def _count(self, choice: Choice, progress: JourneyProgress, refusals: tuple[Refusal, ...]) -> None:
        """Count the refusals that the last judgement did not have: sources show the same thing for a long time."""
        new = [refusal for refusal in refusals if _dedupe_key(refusal) not in self._last]
        self._last = tuple(map(_dedupe_key, refusals))
        for refusal in new:
            if refusal is choice.leaf_refused:
                if choice.trust_set is None:
                    self._recorder.journey_ended(refusal.reason, progress.swapped_at, progress.stages, progress.mark)
            elif refusal.judged:
                self._recorder.rejected(refusal.reason)
                if refusal.reason != Reason.SUPERSEDED:
                    self._recorder.journey_ended(refusal.reason, progress.swapped_at, progress.stages, refusal.claimed)

    def _schedule(self, refusal: Refusal) -> None:
        """Judge again when time alone mends the fault."""
        if refusal.retry_at is not None:
            self._wakeup.wake_within(max(_SOONEST_RETRY_SECONDS, refusal.retry_at - self._clocks.now()))
        elif refusal.reason == "leaf_not_yet_valid":
            self._wakeup.wake_within(_LEAF_RETRY_SECONDS)


def _dedupe_key(refusal: Refusal) -> Refusal:
    """The refusal without its text, which may hold the time; with it where nothing else identifies the refusal."""
    text_identifies = refusal.claimed is None and not refusal.reason.startswith("leaf_")
    return refusal if text_identifies else replace(refusal, detail="")
