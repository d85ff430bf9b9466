"""Commands that ask a running authority, through its API."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from authority.cli import render
from authority.cli.api_client import ApiClient
from authority.cli.inputs import api_access, complain
from authority.cli.parser import DONE, REFUSED, Arguments, WrongInput
from authority.support import atomic_files
from tidemark.bundle import KEY_FILE, LEAF_FILE

_WIDTH = 140  # columns, where the output is no terminal


async def status(arguments: Arguments, environment: Mapping[str, str]) -> int:
    """``status``: print the state, as tables or as JSON."""
    async with ApiClient(api_access(arguments, environment)) as client:
        answer = await client.get("/api/v1/status")
        if answer["withdrawals"]:
            answer |= await client.get("/api/v1/withdrawals")
    if arguments.json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        _console().print(render.status(answer))
    return DONE


async def rotate(arguments: Arguments, environment: Mapping[str, str]) -> int:
    """``rotate``: force a rotation."""
    return await _post(arguments, environment, "/api/v1/rotate")


async def override(arguments: Arguments, environment: Mapping[str, str]) -> int:
    """``override``: open a gate."""
    return await _post(arguments, environment, "/api/v1/override")


async def _post(arguments: Arguments, environment: Mapping[str, str], path: str) -> int:
    async with ApiClient(api_access(arguments, environment)) as client:
        return _print(await client.post(path, {"reason": arguments.reason}))


async def withdraw(arguments: Arguments, environment: Mapping[str, str]) -> int:
    """``rollback`` and ``revoke``: with ``--now``, say first what will break, and ask."""
    path = f"/api/v1/{arguments.command}"
    wanted = {"reason": arguments.reason, "ca": arguments.ca, "now": arguments.now}
    async with ApiClient(api_access(arguments, environment)) as client:
        if arguments.now:
            preview = await client.post(path, wanted | {"preview": True})
            sys.stderr.write(render.preview(preview) + "\n")
            if not arguments.yes and not _is_confirmed():
                return complain(REFUSED, f"{arguments.command}: expected 'yes', nothing was done")
            # By its fingerprint: "the newest" may be another CA by now.
            wanted["ca"] = preview["ca"]
        answer = await client.post(path, wanted)
    if not arguments.now:  # else the preview had the warnings
        complain(DONE, *(f"warning: {warning}" for warning in answer["warnings"]))
    return _print(answer)


def _is_confirmed() -> bool:
    sys.stderr.write("Type 'yes' to do it: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == "yes"


async def leaf(arguments: Arguments, environment: Mapping[str, str]) -> int:
    """``leaf``: have a leaf signed, and write it with its key."""
    out: Path = arguments.out
    # Before anything is signed: a signed leaf stays in the journal, also where it cannot be written.
    if not arguments.force:
        _require_absent(out / LEAF_FILE, out / KEY_FILE)
    wanted = {"name": arguments.name, "dns": arguments.dns, "ip": arguments.ip, "reason": arguments.reason}
    async with ApiClient(api_access(arguments, environment)) as client:
        try:
            atomic_files.make_directory(out)
            answer = await client.post("/api/v1/leaf", wanted)
            certificate, key = (answer.pop(name).encode() for name in ("certificate", "key"))
            files = {KEY_FILE: (key, atomic_files.SECRET), LEAF_FILE: (certificate, atomic_files.PUBLIC)}
            atomic_files.write_together(out, files, over=arguments.force)
        except OSError as error:
            raise WrongInput(
                f"{out}: expected to write {LEAF_FILE} and {KEY_FILE} there, found {error.strerror}; mend it and ask "
                f"for another leaf"
            ) from None
    return _print(answer)


def _require_absent(*paths: Path) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise WrongInput(f"{path}: expected no such file, found one; --force writes over it")


def _print(answer: dict[str, Any]) -> int:
    sys.stdout.write(json.dumps(answer) + "\n")
    return DONE


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
