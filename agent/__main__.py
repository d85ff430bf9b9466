"""The agent: ``python -m agent``, configured by ``TIDEMARK_*`` variables; see ``--help``."""

import agent.memory_footprint  # the first import: it decides what the other imports load

# isort: split
import asyncio
import gc
import os
import sys
import time
from collections.abc import Sequence

from agent import log
from agent.app import run, run_once
from agent.clocks import Clocks
from agent.config import AgentConfigError, read_config

HELP = """\
usage: python -m agent [--once]

Installs verified CA bundles for the workload beside it, has the workload reload, and proves that the workload uses
them, until SIGTERM or SIGINT. Configured by TIDEMARK_* variables; see the README.

  --once      install the highest verified set that the sources show, reload no workload, and exit
  -h, --help  show this help and exit

exit status:
  0  stopped by SIGTERM or SIGINT; with --once: the highest verified set that the sources show is in place
  1  the port is taken, or the program has an error; with --once: the output directory could not be written
  2  the configuration or the command line cannot be used; standard error names every fault
  3  with --once: no verified set is in place, and nothing that the sources show could be installed
  4  with --once: a verified set is in place, but the sources show a bundle or a leaf that was refused; see the log
"""


def _clocks() -> Clocks:
    return Clocks(now=time.time, boot=lambda: time.clock_gettime(time.CLOCK_BOOTTIME))


def main(arguments: Sequence[str]) -> int:
    """Read the environment and run; returns the exit status."""
    if arguments in (["-h"], ["--help"]):
        print(HELP, end="")  # noqa: T201 - the output of --help
        return 0
    if arguments not in ([], ["--once"]):  # argparse would take half a megabyte for as long as the agent lives
        print(f"expected nothing, --once or --help, found: {' '.join(arguments)}\n{HELP}", end="", file=sys.stderr)  # noqa: T201
        return 2
    try:
        config = read_config(os.environ)
    except AgentConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 - there is no log before there is a configuration
        return 2
    log.configure(config.log, sys.stdout)
    if arguments:
        return asyncio.run(run_once(config, _clocks()))
    agent.memory_footprint.forget_annotations()
    gc.collect()
    gc.freeze()  # modules stay for good; a collection without them is too short to delay a reload
    try:
        asyncio.run(run(config, _clocks()))
    except OSError as error:
        log.error("cannot_listen", listen=str(config.listen), error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
