"""The candidates: bundles and leaf that mounts and broker show, collected until the cycle judges them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from agent.clocks import Clocks
from agent.selection.select import BundleSource, Choice, Refusal, SourceContents, choose
from agent.sources.mounts import MountContents, MountFault, SourceSnapshot
from agent.store.set_store import SetStore
from tidemark.bundle import Bundle
from tidemark.trust import Trust

FIRST_ANSWER_SECONDS = 2.0
"""How long a pod that has never verified a bundle waits for the broker, once."""
_MOST_ANNOUNCED = 8


class ReceivedAnnouncement(Protocol):
    """A message of the broker."""

    @property
    def bundle(self) -> Bundle | Refusal:
        """The announced bundle, not verified yet; a refusal where the message holds none."""

    @property
    def heard_at(self) -> float:
        """When the message arrived, in Unix seconds by this pod's clock."""


class AnnouncementSource(Protocol):
    """The second source of bundles, where a broker is configured."""

    async def first(self, identity: Path, within: float) -> ReceivedAnnouncement | None:
        """The present announcement; the connection presents and trusts the set in ``identity``, which is not installed.

        None where there is none, or where the broker does not answer within ``within`` seconds.
        """

    def follow(self) -> None:
        """Another set is in place: present and trust that set from the next connection on."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The choice among the candidates, and its times in Unix seconds."""

    choice: Choice
    swapped_at: float
    """When the sources switched to what is chosen."""
    seen_at: float
    """When the agent saw what is chosen."""


class Candidates:
    """The newest source snapshot and the announcements that are not judged yet."""

    def __init__(self, store: SetStore, clocks: Clocks, announcements: AnnouncementSource | None) -> None:
        self.snapshot: SourceSnapshot | None = None
        """What the mounts show; None before the first reading."""
        self._store = store
        self._clocks = clocks
        self._announcements = announcements
        self._received: tuple[ReceivedAnnouncement, ...] = ()
        self._broker_asked = False

    def put_snapshot(self, snapshot: SourceSnapshot) -> None:
        """Replace the snapshot, judged or not."""
        self.snapshot = replace(snapshot, seen_at=self._clocks.now())

    def put_announcement(self, announcement: ReceivedAnnouncement) -> None:
        """Add an announcement. Several are kept until they are judged, as the last one may not pass."""
        self._received = (*self._received, announcement)[-_MOST_ANNOUNCED:]

    def follow_installed_set(self) -> None:
        """Another set came in place: the connection to the broker uses that set from now on."""
        if self._announcements is not None:
            self._announcements.follow()

    async def ask_broker_once(self, snapshot: SourceSnapshot, trust: Trust) -> None:
        """Before the very first set goes in, ask the broker for a higher one; a late answer is not waited for.

        Raises:
            InstallFailed: the set to connect with could not be written.
        """
        if self._announcements is None or self._broker_asked or self._store.highest is not None:
            return
        mounted = judge(snapshot, self._received, trust, self._store, self._clocks.now()).trust_set
        if mounted is None:
            return  # without a verified set there is nothing to connect with
        self._broker_asked = True
        first = await self._announcements.first(self._store.stage(mounted), FIRST_ANSWER_SECONDS)
        if first is not None:
            self._received = (first, *self._received)

    def judge(self, snapshot: SourceSnapshot, trust: Trust) -> Judgement:
        """Verify all candidates and choose; announcements that are of no use any more are dropped."""
        choice = judge(snapshot, self._received, trust, self._store, self._clocks.now())
        adopted = [one for one in self._received if choice.adopted and one.bundle == choice.adopted.bundle]
        announced_at = adopted[0].heard_at if adopted and choice.source is BundleSource.JETSTREAM else None
        swapped_at = _swapped_at(snapshot, choice, announced_at)
        # Two may still be needed: the adopted one, and the last one of the stream, as a mount shows its last one too.
        self._received = tuple(dict.fromkeys((*adopted[:1], *self._received[-1:])))
        seen_at = snapshot.seen_at if announced_at is None else max(announced_at, swapped_at)
        return Judgement(choice, swapped_at, seen_at)


def judge(
    snapshot: SourceSnapshot, received: Sequence[ReceivedAnnouncement], trust: Trust, store: SetStore, now: float
) -> Choice:
    """Choose among what mounts and broker show, by what ``store`` knows; ``now`` in Unix seconds."""
    installed = store.installed
    contents = SourceContents(
        _files_or_refusal(snapshot.bundle),
        _files_or_refusal(snapshot.leaf) if snapshot.leaf else None,
        tuple(one.bundle for one in received),
    )
    return choose(contents, trust, store.known(), installed.trust_set if installed else None, int(now))


def _files_or_refusal(contents: MountContents) -> dict[str, bytes] | Refusal:
    if contents.files is not None:
        return dict(contents.files)
    fault = contents.fault or MountFault("source_unreadable", "expected files or a fault, found neither")
    return Refusal(fault.reason, fault.detail, judged=False)


def _swapped_at(snapshot: SourceSnapshot, choice: Choice, announced_at: float | None) -> float:
    """When the sources switched to what is chosen: the later one of bundle and leaf."""
    moved = [snapshot.bundle.moved_at if announced_at is None else announced_at] if choice.adopted else []
    if snapshot.leaf is not None and choice.leaf_refused is None:
        moved.append(snapshot.leaf.moved_at)
    return max(moved, default=snapshot.bundle.moved_at)
