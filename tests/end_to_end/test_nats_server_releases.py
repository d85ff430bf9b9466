"""Every release line of nats-server that the agent is for: its reloads proven on all its ports, its refusals reverted.

The suite takes the oldest server that there is as a package, and the newest; ``make soak`` sets ``SOAK_SERVERS`` to the
lines between. Each lies in a directory of its own, which the Makefile's target ``servers`` fills.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.agent.sandbox import AgentSandbox, begin, serves
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.measurements import Cell, ReportTable, Sample
from tests.harness.nats.server import NatsServer
from tests.harness.paths import NATS_SERVER
from tests.harness.ports import free_port
from tests.harness.soak import report, size
from tidemark.receipt import AgentState, Level

NEWEST = "newest"
LINES = os.environ.get("SOAK_SERVERS", f"2.10 {NEWEST}").split()
SWAPS = size("SOAK_SERVER_SWAPS", 10)
TITLE = "Agent: release lines of nats-server"
COLUMNS = ["line", "version", "swaps", "proven", "ports looked at", "p50, ms", "most, ms", "errors logged", "reverted"]


def program(line: str) -> Path:
    """The server of a release line, such as "2.10"."""
    if line == NEWEST:
        return NATS_SERVER
    path = Path(sys.prefix) / "servers" / line / "bin" / "nats-server"
    assert path.exists(), f"{path}: expected nats-server {line}, found nothing; `make servers LINES={line}` installs it"
    return path


class Listening(NatsServer):
    """With every kind of port that asks for certificates: client, route, leafnode, gateway, websocket."""

    def __init__(self, folder: Path, files: Path, line: str) -> None:
        super().__init__(folder, files, program=program(line))
        self.leafnode, self.gateway, self.websocket = free_port(), free_port(), free_port()

    def write_config(self, extra: str = "") -> None:
        super().write_config(
            "accounts { SYS {} }\nsystem_account: SYS\n"
            f"leafnodes {{ listen: 127.0.0.1:{self.leafnode}, {self.tls} }}\n"
            f"gateway {{ name: test, listen: 127.0.0.1:{self.gateway}, {self.tls} }}\n"
            f"websocket {{ listen: 127.0.0.1:{self.websocket}, {self.tls.replace(', timeout: 5', '')} }}\n{extra}"
        )

    @property
    def proof(self) -> str:
        further = f"&nats=127.0.0.1:{self.leafnode}&tls=127.0.0.1:{self.gateway}&tls=127.0.0.1:{self.websocket}"
        return super().proof + further


def report_release(line: str, version: str, taken: Sample, complaints: list[str]) -> None:
    """One row: ``taken`` is milliseconds from swap to proof."""
    row: list[Cell] = [line, version, SWAPS, len(taken), 5, taken.median, taken.highest, len(complaints), "yes"]
    caption = "Each swap is a bundle of other CAs, every second one a leaf."
    report("soak-servers", TITLE, ReportTable(caption, COLUMNS, [row]))


@pytest.mark.parametrize("line", LINES)
async def test_reloads_are_proven_and_refusals_reverted_on_every_release(
    line: str,
    factory: BundleFactory,
    sandbox: AgentSandbox,
    tmp_path: Path,
    serving: Callable[[NatsServer], NatsServer],
) -> None:
    server = serving(Listening(tmp_path / "nats", sandbox.out, line))
    sandbox.targets = server.target
    sandbox.mount(factory.bundle(1), factory.leaf())
    milliseconds: list[float] = []
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        varz = await server.varz()
        assert varz is not None
        version = str(varz["version"])
        assert line == NEWEST or version.startswith(f"{line}."), version
        assert observed.status.targets[0].level is Level.PROVEN
        await server.is_older_than(1)
        for sequence in range(2, SWAPS + 2):
            newest = factory.epoch + sequence % 2
            leaf = factory.leaf() if sequence % 2 else None
            begun = time.time()
            sandbox.mount(factory.bundle(sequence, [newest, newest - 1]), leaf)
            status = await observed.is_proven(sequence, leaf)
            assert serves(sandbox, server)
            milliseconds.append(1000 * ((status.journeys[-1].proven_at or 0) - begun))
        complaints = server.complaints()
        server.write_config("broken {")
        sandbox.mount(factory.bundle(SWAPS + 2))
        await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        assert serves(sandbox, server)
        server.write_config()
        await observed.is_proven(SWAPS + 2)
    report_release(line, version, Sample(tuple(milliseconds)), complaints)
    assert complaints == []
