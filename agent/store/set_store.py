"""The agent's sets (the installed one and the last proven one) and its state file, as the output directory has them.

The state file is written before what depends on it: the highest verified statement before the set of that statement is
installed, so that no kill lets an older set in afterwards.
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
    """A set in the output directory."""

    trust_set: TrustSet
    directory: str
    """The name of its directory in the output directory."""
    at: float
    """When it came in place, in seconds of the boot clock."""


class SetStore:
    """The sets of one output directory. One writer: the cycle, one call at a time.

    Every method that writes may raise InstallFailed; the set that was in place before is in place then.
    """

    def __init__(self, output: OutputDirectory, mount: str, clocks: Clocks) -> None:
        """``mount`` is the key of the bundle's mount in the state file."""
        self.installed: PlacedSet | None = None
        """The set that workloads read; None before the first one."""
        self.proven: PlacedSet | None = None
        """The last set that every workload has proven; None before the first proof."""
        self.highest: Mark | None = None
        """The highest statement that was ever verified here."""
        self._output = output
        self._mount = mount
        self._clocks = clocks
        self._highest_mounted = 0
        self._saved: PersistentState | None = None

    @property
    def restored(self) -> bool:
        """Whether ``restore`` has been called with success."""
        return self._saved is not None

    def restore(self, trust: Trust) -> None:
        """Read back what the output directory holds and verify it again, once."""
        if self.restored:
            return
        self._output.open()
        saved = _read_state(self._output)
        self._highest_mounted = saved.shown.get(self._mount, 0)
        current, proven = self._output.current(), saved.proven
        self.installed = _reopen(self._output, current, trust, proven, self._clocks) if current else None
        if proven is not None:
            placed = self.installed
            if proven.directory != current:
                placed = _reopen(self._output, proven.directory, trust, proven, self._clocks)
            self.proven = placed if placed is not None and _is_same(placed.trust_set, proven) else None
        # The installed set counts as well: the state file may be lost.
        in_place = self.installed.trust_set.mark if self.installed else None
        self.highest = max((mark for mark in (saved.highest, in_place) if mark), key=_sequence, default=None)
        self.sweep()
        self._saved = saved

    def known(self) -> Known:
        """What a candidate is verified against."""
        return Known(self.highest, self.installed.trust_set.verified if self.installed else None, self._highest_mounted)

    def note_mounted(self, sequence: int) -> None:
        """The mount shows an authentic statement; a lower one afterwards is a replay. 0: it shows none."""
        self._highest_mounted = max(self._highest_mounted, sequence)

    def note_verified(self, mark: Mark) -> None:
        """A statement passed verification: no lower statement is adopted from now on."""
        self.highest = max((seen for seen in (self.highest, mark) if seen), key=_sequence)

    def stage(self, trust_set: TrustSet) -> Path:
        """Write a set that no workload reads, to connect with; returns its path. ``sweep`` removes it."""
        return self._output.path / self._output.stage(trust_set)

    def place(self, trust_set: TrustSet) -> PlacedSet:
        """Install a set; ``finish_install`` must follow."""
        # The state file first: were the agent killed in between, a lower statement must not pass at the next start.
        self._write(self._proven_on_disk())
        directory = self._output.install(trust_set)
        self.installed = PlacedSet(trust_set, directory, self._clocks.boot())
        return self.installed

    def finish_install(self) -> None:
        """Make the installation survive a power cut, and remove the replaced set. May run in a thread."""
        self._output.make_durable()
        self.sweep()

    def path_of(self, placed: PlacedSet) -> Path:
        """The path of a set's directory."""
        return self._output.path / placed.directory

    def put_back(self, proven: PlacedSet) -> PlacedSet:
        """Put the last proven set back in place, durably."""
        self._output.put_back(proven.directory)
        self._output.make_durable()
        self.installed = self.proven = replace(proven, at=self._clocks.boot())
        return self.installed

    def mark_proven(self, placed: PlacedSet) -> None:
        """Every workload has proven the installed set; saves that."""
        self.proven = placed
        trust_set = placed.trust_set
        self.save(ProvenSet(placed.directory, trust_set.mark, _leaf_sha256(trust_set), trust_set.issuer_sha256))

    def save(self, proven: ProvenSet | None = None) -> None:
        """Write the state file durably if it changed; ``proven`` replaces the last proven set."""
        if self._write(proven or self._proven_on_disk()):
            self._output.make_durable()

    def sweep(self) -> None:
        """Remove every set but the installed and the last proven one."""
        self._output.sweep([self.proven.directory] if self.proven else [])

    def _proven_on_disk(self) -> ProvenSet | None:
        return self._saved.proven if self._saved else None

    def _write(self, proven: ProvenSet | None) -> bool:
        """Write the state file. False: it has this content already."""
        saved = self._saved or PersistentState()
        state = PersistentState(self.highest, {**saved.shown, self._mount: self._highest_mounted}, proven)
        if state == saved:
            return False
        self._output.write_state(state)
        self._saved = state
        return True


def _read_state(output: OutputDirectory) -> PersistentState:
    """The state file; an empty state where the file cannot be used, as the installed set says enough to start."""
    try:
        return output.read_state()
    except StateFileUnreadable as error:
        log.error("state_file_unreadable", error=str(error))
        return PersistentState()


def _reopen(
    output: OutputDirectory, directory: str, trust: Trust, proven: ProvenSet | None, clocks: Clocks
) -> PlacedSet | None:
    """Read a set back and verify it again; None where it does not pass, or is not complete."""
    files = output.read(directory)
    if files is None:
        return None
    try:
        verified = reopen(files.bundle, trust)
        leaf = parse_leaf(*files.leaf) if files.leaf else None
    except (BundleRejected, LeafRejected) as error:
        log.error("installed_set_unusable", directory=directory, error=str(error))
        return None
    issuer = find_issuer(leaf, verified) if leaf else ""
    if not issuer and proven is not None and proven.directory == directory:
        issuer = proven.issuer_sha256
    age = max(0.0, clocks.now() - files.switched_at)
    return PlacedSet(TrustSet(verified, leaf, issuer), directory, clocks.boot() - age)


def _is_same(trust_set: TrustSet, proven: ProvenSet) -> bool:
    """Whether this set was proven: another set may lie in a directory of the same name."""
    return (trust_set.mark, _leaf_sha256(trust_set)) == (proven.mark, proven.leaf_sha256)


def _leaf_sha256(trust_set: TrustSet) -> str | None:
    return trust_set.leaf.sha256 if trust_set.leaf else None


def _sequence(mark: Mark) -> int:
    return mark.sequence
