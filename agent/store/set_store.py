"""What the agent holds: the set in place, the last proven one, and its memory, each as it lies in the output directory.

The memory is written before what depends on it: the highest verified statement before that statement's set comes in
place, so that no kill lets an older one in afterwards.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from agent import log
from agent.clocks import Clocks
from agent.selection.trust_set import TrustSet, find_issuer
from agent.store.output_directory import OutputDirectory, StateFileUnreadable
from agent.store.state_file import PersistentState, ProvenSet
from tidemark.certificates import LeafRejected, parse_leaf
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, Known, Mark, reopen


@dataclass(frozen=True, slots=True)
class PlacedSet:
    """A set in the output directory; ``at`` is when it came in place, in seconds of the boot clock."""

    trust_set: TrustSet
    directory: str
    at: float


class SetStore:
    """The sets of one output directory; ``mount`` names the bundle's source in the memory.

    Every method that writes may raise InstallFailed; what was in place before is in place then.
    """

    def __init__(self, output: OutputDirectory, mount: str, clocks: Clocks) -> None:
        self.installed: PlacedSet | None = None
        self.proven: PlacedSet | None = None
        self.highest: Mark | None = None
        self.restored = False
        self._output = output
        self._mount = mount
        self._clocks = clocks
        self._shown = 0
        self._kept = PersistentState()

    def restore(self, trust: Trust) -> None:
        """Read back what the output directory holds and verify it again, once."""
        if self.restored:
            return
        self._output.open()
        try:
            self._kept = self._output.recall()
        except StateFileUnreadable as error:
            log.error("memory_unreadable", error=str(error))
        self._shown = self._kept.shown.get(self._mount, 0)
        current, proven = self._output.current(), self._kept.proven
        self.installed = self._reopen(current, trust) if current else None
        if proven is not None:
            placed = self.installed if proven.directory == current else self._reopen(proven.directory, trust)
            self.proven = placed if placed is not None and _is(placed.trust_set, proven) else None
        in_place = self.installed.trust_set.mark if self.installed else None
        self.highest = max((mark for mark in (self._kept.highest, in_place) if mark), key=_sequence, default=None)
        self.sweep()
        self.restored = True

    def known(self) -> Known:
        """What verification measures a candidate by."""
        return Known(self.highest, self.installed.trust_set.verified if self.installed else None, self._shown)

    def note_shown(self, sequence: int) -> None:
        """The mount has shown a statement that is authentic, the highest or not."""
        self._shown = max(self._shown, sequence)

    def note_verified(self, mark: Mark) -> None:
        """A statement passed verification: nothing below it counts from now on."""
        self.highest = max((seen for seen in (self.highest, mark) if seen), key=_sequence)

    def stage(self, trust_set: TrustSet) -> Path:
        """Write a set where no workload looks, to be presented and trusted by the agent alone; ``sweep`` removes it."""
        return self._output.path / self._output.stage(trust_set)

    def place(self, trust_set: TrustSet) -> PlacedSet:
        """Put a set in place, after what was noted is written; ``tidy`` follows."""
        self._write(self._kept.proven)
        directory = self._output.install(trust_set)
        self.installed = PlacedSet(trust_set, directory, self._clocks.boot())
        return self.installed

    def tidy(self) -> None:
        """Make what was placed outlast a power cut, and remove what it replaced; may run in a thread meanwhile."""
        self._output.make_durable()
        self.sweep()

    def path(self, placed: PlacedSet) -> Path:
        """Where a set lies."""
        return self._output.path / placed.directory

    def put_back(self, proven: PlacedSet) -> PlacedSet:
        """Put the last proven set in place again, durably."""
        self._output.put_back(proven.directory)
        self._output.make_durable()
        self.installed = self.proven = replace(proven, at=self._clocks.boot())
        return self.installed

    def settle(self, placed: PlacedSet) -> None:
        """The workloads have proven what is in place."""
        self.proven = placed
        trust_set = placed.trust_set
        self.keep(ProvenSet(placed.directory, trust_set.mark, _leaf_sha256(trust_set), trust_set.issuer_sha256))

    def keep(self, proven: ProvenSet | None = None) -> None:
        """Write down what was noted, durably."""
        if self._write(proven or self._kept.proven):
            self._output.make_durable()

    def sweep(self) -> None:
        """Remove the sets that nothing needs any more."""
        self._output.sweep([self.proven.directory] if self.proven else [])

    def _write(self, proven: ProvenSet | None) -> bool:
        """Whether there was anything new to write."""
        memory = PersistentState(self.highest, {**self._kept.shown, self._mount: self._shown}, proven)
        if memory == self._kept:
            return False
        self._output.remember(memory)
        self._kept = memory
        return True

    def _reopen(self, directory: str, trust: Trust) -> PlacedSet | None:
        """A set as it lies there, verified again; None where it does not stand that, or is not whole."""
        files = self._output.read(directory)
        if files is None:
            return None
        try:
            verified = reopen(files.bundle, trust)
            leaf = parse_leaf(*files.leaf) if files.leaf else None
        except (BundleRejected, LeafRejected) as error:
            log.error("installed_set_unusable", directory=directory, error=str(error))
            return None
        issuer = find_issuer(leaf, verified) if leaf else ""
        if not issuer and self._kept.proven is not None and self._kept.proven.directory == directory:
            issuer = self._kept.proven.issuer_sha256
        age = max(0.0, self._clocks.now() - files.switched_at)
        return PlacedSet(TrustSet(verified, leaf, issuer), directory, self._clocks.boot() - age)


def _is(trust_set: TrustSet, proven: ProvenSet) -> bool:
    """Whether this is what was proven, and no other set in a directory of that name."""
    return (trust_set.mark, _leaf_sha256(trust_set)) == (proven.mark, proven.leaf_sha256)


def _leaf_sha256(trust_set: TrustSet) -> str | None:
    return trust_set.leaf.sha256 if trust_set.leaf else None


def _sequence(mark: Mark) -> int:
    return mark.sequence
