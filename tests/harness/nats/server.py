"""A real nats-server with mutual TLS, as a process whose files an agent installs."""

import signal
import subprocess
import time
from pathlib import Path

import aiohttp

from tests.harness.paths import NATS_SERVER
from tests.harness.ports import free_port
from tests.harness.processes import started
from tests.harness.waiting import eventually


class NatsServer:
    """A nats-server with mutual TLS on its client and its cluster port, that reads its files from ``files``."""

    def __init__(self, folder: Path, files: Path, *, verify: bool = True, program: Path = NATS_SERVER) -> None:
        self.folder = folder
        self.files = files
        self.verify = verify
        self.program = program
        self.client, self.monitor, self.cluster = free_port(), free_port(), free_port()
        self.pidfile = folder / "nats.pid"
        self.log = folder / "nats.log"
        self.config = folder / "nats.conf"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def proof(self) -> str:
        """The part of a target's URL that names the ports to probe."""
        monitor = f"monitor=http://127.0.0.1:{self.monitor}"
        return f"{monitor}&nats=127.0.0.1:{self.client}&tls=127.0.0.1:{self.cluster}"

    @property
    def target(self) -> str:
        return f"signal:?pidfile={self.pidfile}&{self.proof}"

    @property
    def tls(self) -> str:
        """The block ``tls`` of each of its listeners."""
        return (
            f'tls {{ cert_file: "{self.files}/tls.crt", key_file: "{self.files}/tls.key", '
            f'ca_file: "{self.files}/ca.crt", verify: {str(self.verify).lower()}, timeout: 5 }}'
        )

    def write_config(self, extra: str = "") -> None:
        self.config.write_text(
            f"listen: 127.0.0.1:{self.client}\nhttp: 127.0.0.1:{self.monitor}\n"
            f'pid_file: "{self.pidfile}"\n{self.tls}\n'
            f"cluster {{ name: test, listen: 127.0.0.1:{self.cluster}, {self.tls} }}\n{extra}"
        )

    def launch(self) -> None:
        """Start the server without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            self.write_config()
        self.process = subprocess.Popen([self.program, "-c", self.config, "-l", self.log])

    async def start(self) -> None:
        """Start the server and wait until it answers."""
        self.launch()
        await eventually(self.varz, "nats-server to answer")

    async def varz(self) -> dict[str, object] | None:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.monitor}/varz") as response,
            ):
                return dict(await response.json())
        except aiohttp.ClientError:
            return None

    async def is_older_than(self, seconds: float) -> None:
        """Wait until the process is older than that."""
        assert self.process is not None
        born = started(self.process.pid)
        await eventually(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > born + seconds, "the server to grow up")

    def complaints(self) -> list[str]:
        """Its log lines that are errors or warnings."""
        return [line for line in self.log.read_text().splitlines() if "[ERR]" in line or "[WRN]" in line]

    def hang_up(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
