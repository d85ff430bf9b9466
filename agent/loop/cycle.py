"""The cycle: the only code that puts the agent's steps in order.

source → verify → install → reload → prove, one journey at a time. Candidates that arrive meanwhile are coalesced: only
the newest is taken up, and a journey that merely waits gives way to it.
"""

import asyncio
from dataclasses import dataclass, field

from agent.loop.adopted_trust import AdoptedTrust
from agent.loop.candidates import Candidates, ReceivedAnnouncement
from agent.loop.journey import JourneyProgress
from agent.loop.rejections import Rejections
from agent.loop.retry import Retry
from agent.loop.rollout import Rollout
from agent.loop.wakeup import Wakeup
from agent.reporting.recorder import Recorder
from agent.reporting.status import StatusWarning
from agent.selection.select import Choice
from agent.sources.mounts import SourceSnapshot
from agent.store.output_directory import InstallFailed
from agent.store.set_store import SetStore
from tidemark.receipt import AgentState
from tidemark.trust import Trust, TrustError
from tidemark.verify import Mark

_SETTLED = (AgentState.PROVEN, AgentState.LEAF_ORPHANED)


@dataclass(slots=True, eq=False)
class Cycle:
    """Makes a journey of each change that the sources show; ``run`` is its one task."""

    store: SetStore
    candidates: Candidates
    rejections: Rejections
    rollout: Rollout
    retry: Retry
    recorder: Recorder
    wakeup: Wakeup
    _trust: AdoptedTrust = field(default_factory=AdoptedTrust)

    @property
    def control_ca(self) -> str | None:
        """PEM of the CA that verifies the authority's API, from the trust file; None where it names none."""
        return self._trust.trust.control_ca if self._trust.trust else None

    def on_source_change(self, snapshot: SourceSnapshot) -> None:
        """The mounts show something else; the snapshot replaces one that is not judged yet."""
        self.candidates.put_snapshot(snapshot)
        self.wakeup.notify()

    def on_announcement(self, announcement: ReceivedAnnouncement) -> None:
        """The broker announces a bundle."""
        self.candidates.put_announcement(announcement)
        self.wakeup.notify()

    async def run(self) -> None:
        """Make a journey for each change, and again where a retry is due; runs until it is cancelled."""
        while True:
            if await self.wakeup.wait():
                self.retry.clear_pause()
            if self.candidates.snapshot is not None:
                await self._travel(self.candidates.snapshot)

    async def _travel(self, snapshot: SourceSnapshot) -> None:
        """Make one journey, as far as it goes."""
        trust = self._adopt_trust(snapshot)
        if trust is None:
            return
        progress = JourneyProgress()
        try:
            # What the output directory holds is read back first: it says below which sequence nothing is adopted.
            self._restore(trust)
            # A pod that never had a set asks the broker before it judges, so that the highest of both sources goes in.
            await self.candidates.ask_broker_once(snapshot, trust)
            choice = self._select(snapshot, trust, progress)
            trust_set = choice.trust_set
            if trust_set is None or self._is_settled(choice, progress) or self.rollout.is_backing_off(trust_set):
                # No set goes in, so the highest verified statement is saved here and not by an installation.
                self.store.save()
            else:
                await self.rollout.roll_out(trust_set, progress)
        except InstallFailed as error:
            self.recorder.failed("install_failed", str(error), progress.mark)
            self.recorder.journey_ended("install_failed", progress.swapped_at, progress.stages, progress.mark)
            self.rollout.schedule_retry()

    def _adopt_trust(self, snapshot: SourceSnapshot) -> Trust | None:
        """Take over the trust file, and report it and the mounts; None before the first usable trust file."""
        self.recorder.polled_mounts_changed(snapshot.polled)
        warnings, fault = _mount_warnings(snapshot), ""
        try:
            is_new = self._trust.adopt(snapshot.trust)
        except TrustError as error:
            is_new, fault = False, str(error)
        trust = self._trust.trust
        if trust is None:
            self.recorder.warnings_changed(warnings)
            self.recorder.failed("trust", fault)
            return None
        if is_new:
            self.recorder.trust_adopted(trust)
        self.recorder.warnings_changed([*warnings, *([StatusWarning("trust_unusable", fault)] if fault else [])])
        return trust

    def _restore(self, trust: Trust) -> None:
        """Once after the start: read back and verify the sets of the output directory."""
        if self.store.restored:
            return
        self.store.restore(trust)
        installed, proven = self.store.installed, self.store.proven
        self.recorder.restored(
            self.store.highest, installed.trust_set if installed else None, proven.trust_set if proven else None
        )
        if installed is not None:
            self.candidates.follow_installed_set()

    def _select(self, snapshot: SourceSnapshot, trust: Trust, progress: JourneyProgress) -> Choice:
        """Verify the candidates, choose, and record the result."""
        begin = asyncio.get_running_loop().time()
        judgement = self.candidates.judge(snapshot, trust)
        progress.stages["verify"] = asyncio.get_running_loop().time() - begin
        progress.swapped_at = judgement.swapped_at
        progress.stages["detect"] = max(0.0, judgement.seen_at - judgement.swapped_at)
        choice = judgement.choice
        if choice.adopted is not None:
            progress.mark = Mark(choice.adopted.sequence, choice.adopted.digest)
            self.recorder.verified(progress.mark, choice.adopted.statement.issued_at, judgement.seen_at, choice.source)
            self.store.note_verified(progress.mark)
        self.store.note_mounted(choice.mounted)
        installed = self.store.installed
        self.rejections.report(choice, progress, installed.trust_set.mark if installed else None)
        return choice

    def _is_settled(self, choice: Choice, progress: JourneyProgress) -> bool:
        """Whether the chosen set is in place and nothing is left to be done for it."""
        trust_set, installed = choice.trust_set, self.store.installed
        if trust_set is None or installed is None or installed.trust_set.key != trust_set.key:
            return False
        if self.recorder.state is AgentState.REVERTED and choice.adopted is None:
            return True
        if self.recorder.state not in _SETTLED:
            return False
        self.recorder.settled(trust_set)
        self.recorder.rejection_changed(progress.rejection)
        return True


def _mount_warnings(snapshot: SourceSnapshot) -> list[StatusWarning]:
    mounts = [contents for contents in (snapshot.bundle, snapshot.leaf) if contents is not None]
    warnings = [StatusWarning("mount_not_live", contents.not_live) for contents in mounts if contents.not_live]
    warnings += [
        StatusWarning("watch_polling", f"{path}: expected inotify to announce changes, {reason}; it is polled")
        for path, reason in snapshot.polled.items()
        if reason
    ]
    return warnings + ([StatusWarning("watch_failed", snapshot.watch_fault)] if snapshot.watch_fault else [])
