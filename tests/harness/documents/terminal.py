"""A terminal for the commands of the documents, with the real kubectl, bao and authority.

kubectl speaks with the fake API server, which has no schemas (``--validate=false``), takes JSON (``create`` goes by way
of ``apply``), and runs no pods: nothing rolls out, and ``exec`` finds the pod's files below ``POD``, where the file
``environment`` has its container's.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.harness.paths import CHECKOUT

PATIENCE = 120
_BIN = Path(sys.executable).parent
_COMMANDS = {
    "tidemark-authority": f'exec {sys.executable} -m authority "$@"',
    "python": f'exec {sys.executable} "$@"',
    "bao": f'exec {_BIN}/bao "$@"',
    "kubectl": f"""\
real() {{ {_BIN}/kubectl --kubeconfig "$ADMIN" "$@"; }}
case " $* " in
  *" --dry-run=client "* | *" get "* | " kustomize "*) real "$@" ;;
  *" create "*) real "$@" --dry-run=client -o yaml | real apply --validate=false -f - ;;
  " apply "*) real "$@" --validate=false ;;
  *" rollout status "*) ;;
  *" exec "*)
    while [ "$1" != -- ]; do shift; done; shift
    . "$POD/environment"
    case "${2:-}" in /*) exec "$1" "$POD$2" ;; *) exec "$@" ;; esac ;;
  *) echo "kubectl $*: not known here" >&2; exit 1 ;;
esac
""",
}


class Terminal:
    """A shell in ``folder``; exported variables last from one block to the next."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        commands = folder / ".commands"
        commands.mkdir(parents=True)
        for name, script in _COMMANDS.items():
            (commands / name).write_text(f"#!/bin/sh\nset -eu\n{script}\n")
            (commands / name).chmod(0o755)
        (folder / "manifests").symlink_to(CHECKOUT / "manifests")
        self._environment = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(CHECKOUT),
            **environment,
        }

    async def type(self, *lines: str, instead: Mapping[str, str] | None = None) -> str:
        """Run a block of a document with some words replaced (fails where a word is missing); returns the output."""
        text = "\n".join(lines)
        for old, new in (instead or {}).items():
            assert old in text, f"{old!r} in {text!r}"
            text = text.replace(old, new)
        kept = "[ ! -e .exported ] || . ./.exported"
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", f"{kept}\n{text}\nexport -p > .exported"),
            cwd=self.folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, f"{text}\n{out.decode()}{err.decode()}"
        return out.decode()
