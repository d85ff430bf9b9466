"""Secret mounts of a pod, switched as the kubelet does, and the files that belong there."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.harness.contract.bundle_factory import LeafFiles
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle
from tidemark.certificates import Leaf, parse_leaf


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    return {CA_FILE: bundle.ca, NOTE_FILE: bundle.note}


def leaf_files(leaf: LeafFiles) -> dict[str, bytes]:
    return {LEAF_FILE: leaf.crt, KEY_FILE: leaf.key}


def parsed(leaf: LeafFiles) -> Leaf:
    return parse_leaf(leaf.crt, leaf.key)


class KubeletMount:
    """A Secret mount: ``..<time>`` directories, ``..data`` renamed over, a link for each key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0

    def switch_to(self, files: Mapping[str, bytes]) -> None:
        """Switch to these files, as a change of the Secret does."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._number += 1
        fresh = self.path / f"..2026_01_01_00_00_00.{self._number:09}"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        data, link = self.path / "..data", self.path / "..data_tmp"
        before = data.resolve() if data.is_symlink() else None
        link.symlink_to(fresh.name)
        link.rename(data)
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for old in self.path.iterdir():
            if old.is_symlink() and not old.name.startswith("..") and old.name not in files:
                old.unlink()
        if before is not None:
            shutil.rmtree(before)
