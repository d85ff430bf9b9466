"""The authority's program: reads the arguments, sets up logging, runs the command and returns its exit status."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from authority.app.backends import wait_for_openbao
from authority.app.failure_log import log, log_failure
from authority.app.run import run
from authority.cli import commands
from authority.cli.inputs import configuration
from authority.cli.parser import DONE, Arguments, parser
from authority.openbao.errors import OpenBaoError
from authority.support.log_format import configure


async def _run_until_signalled(arguments: Arguments, environment: Mapping[str, str]) -> int:
    config = configuration(arguments, environment)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if config.openbao is not None:
        await wait_for_openbao(config.openbao.access, stop, _log_openbao_unavailable)
    if not stop.is_set():
        await run(config, stop)
    log.info("stopped")
    return DONE


def _log_openbao_unavailable(error: OpenBaoError, retry_in: float) -> None:
    log_failure("openbao_unavailable", error, retry_in=f"{retry_in:.3f}")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command that the arguments name; return its exit status."""
    parsed = parser().parse_args(arguments)
    configure(sys.stderr, json_lines=environment.get("TIDEMARK_LOG") == "json")
    return asyncio.run(commands.execute(parsed, environment, _run_until_signalled))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
