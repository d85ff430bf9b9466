"""Kills an agent with SIGKILL before each of its steps on the output directory in turn; a program of its own.

``python -m tests.agent.killing <folder>`` prints a line of JSON for each step: what was about to happen, what the agent
remembered and had in place after the kill, and what the next start made of it.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.agent.forge import Forge, LeafFiles
from tests.agent.rig import PATIENCE
from tests.agent.site import Site
from tidemark.certificates import parse_leaf

_OPERATIONS = {"open", "os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown"}


def kill_before(step: int, out: Path) -> None:
    """Kill this process before its ``step``-th operation below ``out``; the operation is left in a file beside it."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        paths = [str(argument) for argument in arguments if str(argument).startswith(str(out))]
        if event not in _OPERATIONS or not paths:
            return
        seen += 1
        if seen == step:
            os.write(3, f"{event} {Path(paths[0]).relative_to(out.parent)}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run_agent(site: Site, sequence: int, leaf: LeafFiles, step: int | None = None) -> tuple[bool, str]:
    """Run an agent in a child until it has proven the set; returns whether it got there, and what it was killed at."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 3)
        if step is not None:
            kill_before(step, site.out)

        async def until_proven() -> None:
            async with site.agent() as observed:
                await observed.is_proven(sequence, leaf)

        try:
            asyncio.run(until_proven())
        except BaseException as error:  # noqa: BLE001 - the child must not go on as the parent
            os.write(3, repr(error).encode()[:4000])
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    return status == 0, said


def main(folder: Path) -> None:
    forge = Forge(int(time.time()))
    site = Site(folder, forge)
    first, second = forge.leaf(), forge.leaf(forge.ca(forge.epoch + 1))
    site.show(forge.bundle(1), first)
    assert run_agent(site, 1, first) == (True, "")
    shutil.copytree(site.out, folder / "before", symlinks=True)
    site.show(forge.bundle(2, [forge.epoch + 1, forge.epoch]), second)
    deadline = time.monotonic() + 10 * PATIENCE
    for step in range(1, 1000):
        shutil.rmtree(site.out)
        shutil.copytree(folder / "before", site.out, symlinks=True)
        done, killed_at = run_agent(site, 2, second, step)
        if done:
            return
        leaf = parse_leaf(site.file("tls.crt"), site.file("tls.key"))  # fails unless they belong together
        after = {
            "killed_at": killed_at,
            "in_place": [site.installed().sequence, leaf.sha256 == second.sha256],
            "highest": json.loads(site.file(".tidemark.json"))["highest"]["sequence"],
        }
        done, said = run_agent(site, 2, second)
        left = sorted(entry.name for entry in site.out.iterdir() if not entry.is_symlink())
        print(json.dumps(after | {"recovered": done, "said": said, "left": left}), flush=True)
        assert time.monotonic() < deadline
    raise AssertionError("expected an end to the steps")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
