"""The address of the running API: the URL for other replicas, and the file that tells the command line."""

import json
from contextlib import suppress
from pathlib import Path

from authority.config.load import ApiConfig
from authority.support import atomic_files
from authority.web.listener import ListenError

ADDRESS_FILE = "api.json"
"""In the state directory: ``{"url": …}``, the API of the replica that leads, or that led last."""


def write_address(state: Path, url: str, *, over: bool) -> None:
    """Write the API's URL for the command line; ``over`` replaces a file that is there. Raises ListenError."""
    path, data = state / ADDRESS_FILE, json.dumps({"url": url}).encode() + b"\n"
    try:
        if over:
            atomic_files.replace_file(path, data, atomic_files.PUBLIC)
        else:
            with suppress(FileExistsError):
                atomic_files.create_file(path, data, atomic_files.PUBLIC)
    except OSError as error:
        raise ListenError(f"{path}: expected to write the API's address there, found {error.strerror}") from None


def address(config: ApiConfig, port: int) -> str:
    """The API's URL by a name in its certificate: the address that it listens on, or else the first name."""
    return _url(config.listen.host if config.listen.host in config.names else config.names[0], port)


def address_for_replicas(config: ApiConfig, port: int) -> str:
    """The URL by which other replicas reach this one. They verify the certificate by its first name."""
    listens_everywhere = config.listen.host in ("0.0.0.0", "::")  # noqa: S104 - looked for, not bound to
    return _url(config.advertise or (config.names[0] if listens_everywhere else config.listen.host), port)


def _url(host: str, port: int) -> str:
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
