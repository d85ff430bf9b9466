"""The authority's composition root: everything is made, joined and watched here, and nowhere else."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from authority.app.backends import openbao_answers
from authority.app.run import log, run
from authority.cli import commands
from authority.cli.parser import DONE, Arguments, parser
from authority.openbao.errors import OpenBaoError
from authority.support.log_format import JsonLines, TextLines


async def _run_until_signalled(arguments: Arguments, environment: Mapping[str, str]) -> int:
    config = commands.configuration(arguments, environment)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if config.openbao is not None:
        await openbao_answers(config.openbao.access, stop, _openbao_away)
    if not stop.is_set():
        await run(config, stop)
    log.info("stopped")
    return DONE


def _openbao_away(error: OpenBaoError, retry_in: float) -> None:
    log.warning("openbao", extra={"fields": {"error": str(error), "retry_in": f"{retry_in:.3f}"}})


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Do what the command line says; returns the exit status."""
    parsed = parser().parse_args(arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if environment.get("TIDEMARK_LOG") == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request to the API server otherwise
    return asyncio.run(commands.execute(parsed, environment, _run_until_signalled))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
