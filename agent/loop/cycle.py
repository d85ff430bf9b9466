"""The cycle: one set's journey from a source to the proof, and back where the proof fails; the only sequencer.

source → verify → install → reload → prove, one journey at a time. What arrives meanwhile is coalesced: only the newest
is taken up, and a journey that merely waits gives way to it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.clocks import Clocks
from agent.loop.delivery import Delivery, DeliveryTimes
from agent.loop.retry import Retry
from agent.loop.timing import RetryPolicy
from agent.loop.wakeup import Superseded, Wakeup
from agent.reporting.recorder import Recorder
from agent.reporting.status import StatusWarning, state_of_proof
from agent.selection.select import BundleSource, Choice, Refusal, SourceContents, choose
from agent.selection.trust_set import TrustSet
from agent.sources.mounts import MountContents, MountFault, SourceSnapshot
from agent.store.output_directory import InstallFailed
from agent.store.set_store import PlacedSet, SetStore
from agent.workloads.interface import Expectation, NotProven, WorkloadAbsent
from tidemark.bundle import Bundle
from tidemark.certificates import Leaf, fingerprint, is_valid_at
from tidemark.receipt import AgentState
from tidemark.trust import Trust, TrustError
from tidemark.verify import Mark, Reason

_CLOCK_PAUSE = 10.0
FIRST_WORD = 2.0
"""Seconds that a pod without memory waits for the broker, once."""
_MOST_ANNOUNCED = 8
_SETTLED = (AgentState.PROVEN, AgentState.LEAF_ORPHANED)


class ReceivedAnnouncement(Protocol):
    """What the broker said: a bundle or why it is none, and when, in seconds of the wall clock."""

    @property
    def bundle(self) -> Bundle | Refusal:
        """Not trusted yet."""

    @property
    def heard_at(self) -> float:
        """By this pod's clock."""


class AnnouncementSource(Protocol):
    """The second source, where one is configured."""

    async def first(self, identity: Path, within: float) -> ReceivedAnnouncement | None:
        """What is announced now, to a pod that has nothing yet and connects with the set in ``identity``."""

    def follow(self) -> None:
        """Another set has come in place, to connect with from now on."""


@dataclass(slots=True)
class _Travel:
    """What is noted of a journey under way."""

    swapped_at: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    mark: Mark | None = None
    concern: Refusal | None = None
    next_may_overlap: bool = False


@dataclass(slots=True, eq=False)
class Cycle:
    """Takes sightings and brings what they show to the workloads; ``run`` is its one task.

    ``directory`` is what workloads are told to read; ``announcements`` is None without a broker.
    """

    directory: Path
    holdings: SetStore
    handover: Delivery
    chronicle: Recorder
    clocks: Clocks
    alarm: Wakeup
    patience: RetryPolicy = field(default_factory=RetryPolicy)
    announcements: AnnouncementSource | None = None
    trust: Trust | None = None
    _trust_file: bytes | None = None
    _sighting: SourceSnapshot | None = None
    _heard: tuple[ReceivedAnnouncement, ...] = ()
    _asked_first: bool = False
    _last_refusals: tuple[Refusal, ...] = ()
    _retry: Retry = field(init=False)

    def __post_init__(self) -> None:
        self._retry = Retry(self.patience)
        self.handover.on_report = self._report

    @property
    def control_ca(self) -> str | None:
        """The CA that the authority's API is verified with, from the trust file."""
        return self.trust.control_ca if self.trust else None

    def take(self, sighting: SourceSnapshot) -> None:
        """The sources show something new; it replaces what was not taken up yet."""
        self._sighting = replace(sighting, seen_at=self.clocks.now())
        self.alarm.ring()

    def hear(self, heard: ReceivedAnnouncement) -> None:
        """The broker announces something new; a few are kept until they are judged, as the last may be worth less."""
        self._heard = (*self._heard, heard)[-_MOST_ANNOUNCED:]
        self.alarm.ring()

    async def run(self) -> None:
        """Make a journey for each sighting, and again where something is left to do; runs until it is cancelled."""
        while True:
            if await self.alarm.wait():
                self._retry.something_changed()
            if self._sighting is not None:
                await self._journey(self._sighting)

    async def _journey(self, sighting: SourceSnapshot) -> None:
        trouble = self._adopt_trust(sighting.trust)
        self.chronicle.warns([*_mount_warnings(sighting), *([trouble] if trouble and self.trust else [])])
        if self.trust is None:
            self.chronicle.fails("trust", trouble.detail if trouble else "expected a trust file, found none")
            return
        travel = _Travel()
        try:
            self._restore(self.trust)
            await self._ask_first(sighting, self.trust)
            choice = self._choose(sighting, self.trust, travel)
            if choice.trust_set is None or self._is_settled(choice, travel) or self._must_wait(choice.trust_set):
                self.holdings.keep()
            else:
                await self._hand_over(self._place(choice.trust_set, travel), travel)
                self.holdings.sweep()
        except InstallFailed as error:
            self.chronicle.fails("install_failed", str(error), travel.mark)
            self.chronicle.journey_ends("install_failed", travel.swapped_at, travel.stages, travel.mark)
            self._come_back()

    def _adopt_trust(self, look: MountContents) -> StatusWarning | None:
        """Take over what the trust file says; where it is not usable, the last one still counts."""
        if look.files is None:
            return StatusWarning("trust_unusable", look.fault.detail if look.fault else "")
        (content,) = look.files.values()
        if content != self._trust_file:
            try:
                self.trust = Trust.parse(content)
            except TrustError as error:
                return StatusWarning("trust_unusable", str(error))
            self._trust_file = content
            self.chronicle.trusts(self.trust)
        return None

    def _restore(self, trust: Trust) -> None:
        if self.holdings.restored:
            return
        self.holdings.restore(trust)
        installed, proven = self.holdings.installed, self.holdings.proven
        self.chronicle.restored(
            self.holdings.highest, installed.trust_set if installed else None, proven.trust_set if proven else None
        )
        if installed is not None:
            self._follow()

    async def _ask_first(self, sighting: SourceSnapshot, trust: Trust) -> None:
        """A pod without memory takes the highest of all its sources first, if the broker does not keep it waiting."""
        if self.announcements is None or self._asked_first or self.holdings.highest is not None:
            return
        mounted = judge(sighting, self._heard, trust, self.holdings, self.clocks.now()).trust_set
        if mounted is None:
            return  # without a verified set there is nothing to connect with
        self._asked_first = True
        heard = await self.announcements.first(self.holdings.stage(mounted), FIRST_WORD)
        if heard is not None:
            self._heard = (heard, *self._heard)

    def _choose(self, sighting: SourceSnapshot, trust: Trust, travel: _Travel) -> Choice:
        """Verify, and note what came of it."""
        begin = asyncio.get_running_loop().time()
        choice = judge(sighting, self._heard, trust, self.holdings, self.clocks.now())
        travel.stages["verify"] = asyncio.get_running_loop().time() - begin
        came = [heard for heard in self._heard if choice.adopted and heard.bundle == choice.adopted.bundle]
        announced = came[0].heard_at if came and choice.source is BundleSource.JETSTREAM else None
        travel.swapped_at = _swapped_at(sighting, choice, announced)
        seen_at = sighting.seen_at if announced is None else max(announced, travel.swapped_at)
        travel.stages["detect"] = max(0.0, seen_at - travel.swapped_at)
        if choice.adopted is not None:
            travel.mark = Mark(choice.adopted.sequence, choice.adopted.digest)
            self.chronicle.verified(travel.mark, choice.adopted.statement.issued_at, seen_at, choice.source)
            self.holdings.note_verified(travel.mark)
        self.holdings.note_shown(choice.mounted)
        # What may still be needed: the bundle that goes in, and what the stream ends with, as a mount shows its last.
        self._heard = tuple(dict.fromkeys((*came[:1], *self._heard[-1:])))
        self._note_refusals(choice, travel)
        return choice

    def _note_refusals(self, choice: Choice, travel: _Travel) -> None:
        """Tell what the sources show and is not taken; what was told before is not counted again."""
        refusals = (*choice.refused, *([choice.leaf_refused] if choice.leaf_refused else []))
        fresh = [refusal for refusal in refusals if _gist(refusal) not in self._last_refusals]
        self._last_refusals = tuple(map(_gist, refusals))
        for refusal in fresh:
            if refusal is choice.leaf_refused:
                if choice.trust_set is None:
                    self.chronicle.journey_ends(refusal.reason, travel.swapped_at, travel.stages, travel.mark)
            elif refusal.judged:
                self.chronicle.rejected(refusal.reason)
                if refusal.reason != Reason.SUPERSEDED:
                    self.chronicle.journey_ends(refusal.reason, travel.swapped_at, travel.stages, refusal.claimed)
        in_place = self.holdings.installed.trust_set.mark if self.holdings.installed else None
        for refusal in refusals:
            if refusal.reason == Reason.SUPERSEDED:
                continue  # a source that lags behind another is normal, and no concern
            travel.concern = travel.concern or refusal
            travel.next_may_overlap |= refusal.reason == Reason.OVERLAP and travel.mark not in (None, in_place)
            if refusal.retry_at is not None:
                self.alarm.set(max(1.0, refusal.retry_at - self.clocks.now()))
            elif refusal.reason == "leaf_not_yet_valid":
                self.alarm.set(_CLOCK_PAUSE)
        if travel.concern is not None:
            self._tell_concern(travel.concern)
            self.alarm.set(self.patience.judged)

    def _tell_concern(self, concern: Refusal | None) -> None:
        """What the mounts show and is not taken is the failure of a set that is otherwise well."""
        if concern is None:
            self.chronicle.recovers()
        else:
            self.chronicle.fails(
                concern.reason,
                concern.detail if concern.source is BundleSource.MOUNT else f"{concern.source.value}: {concern.detail}",
                concern.claimed,
                source=concern.source.value,
                security=concern.security or None,
            )

    def _is_settled(self, choice: Choice, travel: _Travel) -> bool:
        """Whether the chosen set is in place already and nothing is left to be done for it."""
        trust_set, installed = choice.trust_set, self.holdings.installed
        if trust_set is None or installed is None or installed.trust_set.key != trust_set.key:
            return False
        if self.chronicle.state is AgentState.REVERTED and choice.adopted is None:
            return True
        if self.chronicle.state not in _SETTLED:
            return False
        self.chronicle.settled(trust_set)
        self._tell_concern(travel.concern)
        return True

    def _must_wait(self, trust_set: TrustSet) -> bool:
        """Whether the set was refused and its pause is not over: something else rang."""
        rest = self._retry.rest(trust_set.key, asyncio.get_running_loop().time())
        if rest:
            self.alarm.set(rest)
        return rest > 0

    def _place(self, trust_set: TrustSet, travel: _Travel) -> PlacedSet:
        """Install the set, unless it is what lies there."""
        placed = self.holdings.installed
        self.handover.forget()
        begin = asyncio.get_running_loop().time()
        if placed is None or placed.trust_set.key != trust_set.key:
            placed = self.holdings.place(trust_set)
            self._follow()
            self.chronicle.installed(trust_set, placed.directory, self.handover.reports)
        else:
            self.chronicle.reports(self.handover.reports)
        travel.stages["install"] = asyncio.get_running_loop().time() - begin
        self._retry.begins(trust_set.key)
        return placed

    async def _hand_over(self, placed: PlacedSet, travel: _Travel) -> None:
        trust_set, proven = placed.trust_set, self.holdings.proven
        seen_before = proven is not None and proven.trust_set.key == trust_set.key
        try:
            done = await self._bring(self._expectation(placed, (proven, placed)), look_first=seen_before)
        except Superseded:
            self.chronicle.journey_ends(AgentState.INSTALLED, travel.swapped_at, travel.stages, trust_set)
        except NotProven as failure:
            await self._go_back(placed, failure, travel)
        else:
            travel.stages |= {"reload": done.reload_seconds, "prove": done.prove_seconds}
            self.chronicle.proven(trust_set, travel.stages)
            self.chronicle.journey_ends(state_of_proof(trust_set), travel.swapped_at, travel.stages, trust_set)
            self._tell_concern(travel.concern)
            self._retry.succeeds()
            self.holdings.settle(placed)
            if travel.next_may_overlap:
                self.alarm.set(0.0)  # what had nothing in common with the set before may have with this one

    async def _bring(self, expected: Expectation, *, look_first: bool) -> DeliveryTimes:
        """Hand over while the disk makes the switch durable: the workload need not wait for that, the report must."""
        tidied = asyncio.create_task(asyncio.to_thread(self.holdings.tidy), name="tidy")
        try:
            return await self.handover.bring(expected, look_first=look_first)
        finally:
            await tidied

    async def _go_back(self, refused: PlacedSet, failure: NotProven, travel: _Travel) -> None:
        """Put the last proven set in place again, unless that would be no better."""
        proven, trust_set = self.holdings.proven, refused.trust_set
        state, detail = AgentState.RELOAD_REFUSED, str(failure)
        if proven is None or proven.trust_set.key == trust_set.key:
            detail += "; it stays: no other set has been proven"
        elif proven.trust_set.verified.intermediates & set(trust_set.verified.statement.withdrawn):
            detail += "; it stays: the last proven set holds a withdrawn CA"
        elif not proven.trust_set.is_valid_at(int(self.clocks.now())):
            detail += "; it stays: the last proven set has expired"
        else:
            back = self.holdings.put_back(proven)
            self._follow()
            try:
                await self.handover.bring_back(self._expectation(back, (back, refused)))
            except NotProven as error:
                detail += f"; the last proven set is back in place, and is not proven either: {error}"
            except WorkloadAbsent as error:
                state = AgentState.REVERTED
                detail += f"; the last proven set is back in place for when the workload is: {error}"
            else:
                state = AgentState.REVERTED
        in_place = self.holdings.installed or refused
        self.chronicle.went_back(state, trust_set, in_place.trust_set, failure.reason)
        self.chronicle.fails(failure.reason, detail, trust_set.mark)
        self.chronicle.journey_ends(state, travel.swapped_at, travel.stages, trust_set)
        self._come_back(trust_set)

    def _follow(self) -> None:
        if self.announcements is not None:
            self.announcements.follow()

    def _come_back(self, refused: TrustSet | None = None) -> None:
        """Try again after a pause that grows with each failure."""
        now = asyncio.get_running_loop().time()
        self.alarm.set(self._retry.fails(now, refused.key if refused else None))

    def _expectation(self, placed: PlacedSet, known: Sequence[PlacedSet | None]) -> Expectation:
        verified, leaf = placed.trust_set.verified, placed.trust_set.leaf
        return Expectation(
            sequence=verified.sequence,
            ca_sha256=verified.bundle.ca_sha256,
            subjects=tuple(certificate.subject for certificate in verified.certificates),
            leaf=leaf,
            directory=self.directory,
            installed_at=placed.at,
            presented=_trusted_throughout(placed, known, self.clocks.now()),
            identities=tuple(dict.fromkeys(self.holdings.path(one) for one in known if one is not None)),
        )

    def _report(self, target: str, trouble: WorkloadAbsent | NotProven | None) -> None:
        self.chronicle.reports(self.handover.reports)
        if trouble is not None and self.holdings.installed is not None:
            waiting = isinstance(trouble, WorkloadAbsent) or None
            mark = self.holdings.installed.trust_set.mark
            self.chronicle.fails(trouble.reason, str(trouble), mark, target=target, waiting=waiting)


def _trusted_throughout(placed: PlacedSet, known: Sequence[PlacedSet | None], now: float) -> Leaf | None:
    """A leaf that a workload trusts whichever of these sets it uses, as far as there is one."""
    anchors = {fingerprint(certificate) for certificate in placed.trust_set.verified.certificates}
    for one in known:
        if one is None or one.trust_set.leaf is None or one.trust_set.issuer_sha256 not in anchors:
            continue
        if is_valid_at(one.trust_set.leaf.certificate, int(now)):
            return one.trust_set.leaf
    return None


def judge(
    sighting: SourceSnapshot, heard: Sequence[ReceivedAnnouncement], trust: Trust, holdings: SetStore, now: float
) -> Choice:
    """The choice among what mounts and broker show, by what the holdings know."""
    installed = holdings.installed
    shown = SourceContents(
        _shown(sighting.bundle),
        _shown(sighting.leaf) if sighting.leaf else None,
        tuple(one.bundle for one in heard),
    )
    return choose(shown, trust, holdings.known(), installed.trust_set if installed else None, int(now))


def _gist(refusal: Refusal) -> Refusal:
    """What a refusal is about: without its words, which may hold the time, where something else says so."""
    says_itself = refusal.claimed is None and not refusal.reason.startswith("leaf_")
    return refusal if says_itself else replace(refusal, detail="")


def _shown(look: MountContents) -> dict[str, bytes] | Refusal:
    if look.files is not None:
        return dict(look.files)
    fault = look.fault or MountFault("source_unreadable", "expected files or a fault, found neither")
    return Refusal(fault.reason, fault.detail, judged=False)


def _swapped_at(sighting: SourceSnapshot, choice: Choice, announced: float | None) -> float:
    """When the sources switched to what goes in, by the wall clock."""
    moved = [sighting.bundle.moved_at if announced is None else announced] if choice.adopted else []
    if sighting.leaf is not None and choice.leaf_refused is None:
        moved.append(sighting.leaf.moved_at)
    return max(moved, default=sighting.bundle.moved_at)


def _mount_warnings(sighting: SourceSnapshot) -> list[StatusWarning]:
    looks = [look for look in (sighting.bundle, sighting.leaf) if look is not None]
    warnings = [StatusWarning("mount_not_live", look.not_live) for look in looks if look.not_live]
    return warnings + ([StatusWarning("watch_failed", sighting.watch_fault)] if sighting.watch_fault else [])
