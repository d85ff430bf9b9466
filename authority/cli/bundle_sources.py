"""Reads bundles for ``verify``: from files, or from the API."""

import json
from collections.abc import Sequence
from pathlib import Path

from authority.cli.api_client import ApiClient, ApiError
from tidemark.bundle import CA_FILE, NOTE_FILE, Bundle


class BundleUnreadable(Exception):
    """A path that should hold a bundle does not; the message names it and what was found."""


def read(paths: Sequence[Path]) -> dict[str, Bundle]:
    """The bundles at these paths, each once: a directory with the two files, one of the files, or a bundle in JSON.

    Raises:
        BundleUnreadable: a file is not readable, or no bundle.
    """
    bundles: dict[str, Bundle] = {}
    for path in paths:
        if path.suffix == ".json":
            try:
                bundles[str(path)] = Bundle.from_json(_read(path))
            except ValueError as error:
                raise BundleUnreadable(f"{path}: expected a bundle in JSON, found {error}") from None
        else:
            directory = path if path.is_dir() else path.parent
            bundles[str(directory)] = Bundle(_read(directory / CA_FILE), _read(directory / NOTE_FILE))
    return bundles


def read_all(paths: Sequence[Path]) -> dict[str, Bundle]:
    """Like ``read``; a directory that is no bundle itself stands for all bundles in it. Raises BundleUnreadable."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir() or (path / NOTE_FILE).exists():
            found.append(path)
            continue
        inner = sorted(path.glob("*.json")) + sorted(note.parent for note in path.glob(f"*/{NOTE_FILE}"))
        if not inner:
            raise BundleUnreadable(
                f"{path}: expected bundles, as directories with {NOTE_FILE} or as *.json, found none"
            )
        found += inner
    return read(found)


async def fetch(client: ApiClient) -> dict[str, Bundle]:
    """Every bundle that the authority's journal holds. Raises ApiError."""
    bundles = {}
    for summary in (await client.get("/api/v1/bundles"))["bundles"]:
        path = f"/api/v1/bundles/{summary['sequence']}"
        try:
            bundles[path] = Bundle.from_json(json.dumps(await client.get(path)).encode())
        except ValueError as error:
            raise ApiError(f"{path}: expected a bundle, found {error}") from None
    return bundles


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleUnreadable(f"{path}: expected a readable file, found {error.strerror}") from None
