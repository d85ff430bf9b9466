"""The output directory: a verified set becomes what workloads read, in one durable switch.

It is laid out as the kubelet lays out a Secret, so that no reader sees files of two sets::

    ca.crt -> ..data/ca.crt      bundle.note, tls.crt and tls.key likewise
    ..data -> ..<sequence>-<n>   renamed over: the switch
    ..<sequence>-<n>/            one set, complete before anything points to it
    .tidemark.json               the state file

A kill at any instruction leaves ``..data`` on a whole set, the old one or the new one. The next start removes what else
the kill left behind.
"""

import errno
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from agent.selection.trust_set import TrustSet
from agent.store import atomic_files
from agent.store.state_file import STATE_FILE, PersistentState
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle
from tidemark.strict_json import FieldError

DATA = "..data"
_FRESH_LINK = "..data_tmp"
_NAMES = (CA_FILE, NOTE_FILE, LEAF_FILE, KEY_FILE)
_SET = re.compile(r"\.\.(\d+)-(\d+)")
_DIRECTORY_MODE = 0o750


class InstallFailed(Exception):
    """A set could not be written; the set from before is still in place. The message names path and errno."""

    def __init__(self, error: OSError, path: Path) -> None:
        code = errno.errorcode.get(error.errno or 0, "no errno")
        super().__init__(f"{error.filename or path}: expected to write there, found {error.strerror} ({code})")


class StateFileUnreadable(ValueError):
    """The state file is there and cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True)
class InstalledFiles:
    """A set as it lies in the output directory, not verified again yet."""

    directory: str
    """The name of the set's directory."""
    bundle: Bundle
    leaf: tuple[bytes, bytes] | None
    """``tls.crt`` and ``tls.key``; None where the set has no leaf."""
    switched_at: float
    """When ``..data`` was last switched, in Unix seconds."""


class OutputDirectory:
    """One output directory. One writer and no locking: the cycle alone calls it, one step at a time.

    Files are on the disk before anything points to them. What points to them (``..data``, the state file) survives a
    kill at once, and a power cut after ``make_durable``: a workload need not wait for that, a report must.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Make the directory where it is missing, and clean up after a kill.

        Raises:
            InstallFailed: the directory cannot be made or written to.
        """
        try:
            self.path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            (self.path / _FRESH_LINK).unlink(missing_ok=True)
            (self.path / f"{STATE_FILE}.new").unlink(missing_ok=True)
            if (current := self.current()) is not None:
                self._link_names(current)
        except OSError as error:
            raise InstallFailed(error, self.path) from error

    def current(self) -> str | None:
        """The name of the set's directory that ``..data`` points to; None where no set is installed."""
        try:
            name = str((self.path / DATA).readlink())
        except OSError:
            return None
        return name if _SET.fullmatch(name) and (self.path / name).is_dir() else None

    def read(self, directory: str) -> InstalledFiles | None:
        """Read a set back; None where it is not complete."""
        folder = self.path / directory
        try:
            bundle = Bundle((folder / CA_FILE).read_bytes(), (folder / NOTE_FILE).read_bytes())
            leaf = None
            if (folder / LEAF_FILE).exists():
                leaf = ((folder / LEAF_FILE).read_bytes(), (folder / KEY_FILE).read_bytes())
            switched_at = (self.path / DATA).lstat().st_ctime
        except OSError:
            return None
        return InstalledFiles(directory, bundle, leaf, switched_at)

    def install(self, trust_set: TrustSet) -> str:
        """Write a set beside the present one and switch to it; returns the name of its directory.

        Raises:
            InstallFailed: the set could not be written; the present set stays in place.
        """
        directory = self.stage(trust_set)
        try:
            self._switch(directory)
        except OSError as error:
            if self.current() != directory:
                shutil.rmtree(self.path / directory, ignore_errors=True)
            raise InstallFailed(error, self.path) from error
        return directory

    def stage(self, trust_set: TrustSet) -> str:
        """Write a set beside the present one and do not switch; returns its directory's name. Raises InstallFailed."""
        try:
            directory = self._fresh_name(trust_set.verified.sequence)
            folder = self.path / directory
            folder.mkdir(mode=_DIRECTORY_MODE)
            try:
                self._fill(folder, trust_set)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        except OSError as error:
            raise InstallFailed(error, self.path) from error
        return directory

    def put_back(self, directory: str) -> None:
        """Switch to a set that is still there and complete; raises InstallFailed."""
        try:
            self._switch(directory)
        except OSError as error:
            raise InstallFailed(error, self.path) from error

    def make_durable(self) -> None:
        """Make switch and state file survive a power cut; raises InstallFailed. May run in a thread."""
        try:
            atomic_files.sync_directory(self.path)
        except OSError as error:
            raise InstallFailed(error, self.path) from error

    def sweep(self, keep: Collection[str]) -> None:
        """Remove all sets but the present one and those in ``keep``.

        A set that cannot be removed is tried again next time.

        Raises:
            InstallFailed: the output directory is gone.
        """
        needed = {*keep, self.current()}
        try:
            entries = list(self.path.iterdir())
        except OSError as error:
            raise InstallFailed(error, self.path) from error
        for entry in entries:
            if _SET.fullmatch(entry.name) and entry.name not in needed:
                shutil.rmtree(entry, ignore_errors=True)

    def write_state(self, state: PersistentState) -> None:
        """Write the state file; raises InstallFailed."""
        try:
            atomic_files.replace(self.path / STATE_FILE, state.to_json())
        except OSError as error:
            raise InstallFailed(error, self.path / STATE_FILE) from error

    def read_state(self) -> PersistentState:
        """Read the state file; an empty state where there is no file yet.

        Raises:
            StateFileUnreadable: the file is there and cannot be used.
        """
        path = self.path / STATE_FILE
        try:
            return PersistentState.from_json(path.read_bytes())
        except FileNotFoundError:
            return PersistentState()
        except (OSError, FieldError) as error:
            raise StateFileUnreadable(f"{path}: expected the agent's state file, found {error}") from None

    def _fresh_name(self, sequence: int) -> str:
        matches = (_SET.fullmatch(entry.name) for entry in self.path.iterdir())
        taken = [int(match[2]) for match in matches if match and int(match[1]) == sequence]
        return f"..{sequence}-{max(taken, default=0) + 1}"

    def _fill(self, folder: Path, trust_set: TrustSet) -> None:
        group = self.path.stat().st_gid
        if folder.stat().st_gid != group:
            os.chown(folder, -1, group)
        folder.chmod(_DIRECTORY_MODE)  # mkdir applied the umask
        # Content and names are on the disk before ``_switch`` points to them; a power cut leaves no half-written set.
        atomic_files.write_all(folder, trust_set.files())
        atomic_files.sync_directory(folder)

    def _switch(self, directory: str) -> None:
        link = self.path / _FRESH_LINK
        link.unlink(missing_ok=True)
        link.symlink_to(directory)
        # The names come first, so that a reader who sees the switch finds every name. The rename is the switch: it is
        # the last step, and the only one that changes which set is read.
        self._link_names(directory)
        link.rename(self.path / DATA)

    def _link_names(self, directory: str) -> None:
        """Make a link for each file of the set, and remove the links of files that the set does not have."""
        for name in _NAMES:
            link = self.path / name
            there = (self.path / directory / name).exists()
            if there and not link.is_symlink():
                link.symlink_to(f"{DATA}/{name}")
            elif not there and link.is_symlink():
                link.unlink()
