"""A nats-server with every kind of port, and what it logs about connections."""

import subprocess
from pathlib import Path

from tests.harness.paths import NATS_SERVER
from tests.harness.ports import free_port
from tests.harness.waiting import eventually

KINDS = {"client": "nats", "leafnode": "nats", "route": "tls", "gateway": "tls", "websocket": "tls"}
"""Each kind of port, and its key in the URL of a target."""

NOTED = ["route", "gateway", "websocket"]
"""The kinds of port that log every handshake without a certificate, however it ends; the others log some ends."""


class Listeners:
    """A nats-server with mutual TLS on every kind of port that NATS has; a field for each port and file."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder = folder
        self.files = files
        self.ports = {kind: free_port() for kind in KINDS}
        self.monitor = free_port()
        self.pidfile = folder / "nats.pid"
        self.log = folder / "nats.log"
        self.program = NATS_SERVER
        self.options = "verify: true, timeout: 1"
        self.handshake_first = ""
        self.process: subprocess.Popen[bytes] | None = None

    def write_config(self) -> None:
        self.folder.mkdir(exist_ok=True)
        files = f'cert_file: "{self.files}/tls.crt", key_file: "{self.files}/tls.key", ca_file: "{self.files}/ca.crt"'
        tls, port = f"tls {{ {files}, {self.options} }}", self.ports
        greeting = f"tls {{ {files}, {self.options} {self.handshake_first} }}"
        (self.folder / "nats.conf").write_text(
            f"listen: 127.0.0.1:{port['client']}\nhttp: 127.0.0.1:{self.monitor}\n"
            f'pid_file: "{self.pidfile}"\n{greeting}\n'
            f"cluster {{ name: A, listen: 127.0.0.1:{port['route']}, {tls} }}\n"
            f"leafnodes {{ listen: 127.0.0.1:{port['leafnode']}, {greeting} }}\n"
            f"gateway {{ name: A, listen: 127.0.0.1:{port['gateway']}, {tls} }}\n"
            f'websocket {{ listen: "127.0.0.1:{port["websocket"]}", {tls.replace(", timeout: 1", "")} }}\n'
            f"accounts {{ SYS {{ }} }}\nsystem_account: SYS\n"
        )

    async def start(self) -> None:
        self.launch()
        await eventually(lambda: self.log.exists() and "Server is ready" in self.log.read_text(), "the server to start")

    def launch(self) -> None:
        self.write_config()
        self.process = subprocess.Popen([self.program, "-c", self.folder / "nats.conf", "-l", self.log])

    def target(self, *kinds: str, monitored: bool = True) -> str:
        ports = "".join(f"&{KINDS[kind]}=127.0.0.1:{self.ports[kind]}" for kind in kinds)
        monitor = f"&monitor=http://127.0.0.1:{self.monitor}" if monitored else ""
        return f"signal:?pidfile={self.pidfile}{monitor}{ports}"

    def complaints(self) -> list[str]:
        lines = [line for line in self.log.read_text().splitlines() if "[ERR]" in line or "[WRN]" in line]
        return [line for line in lines if '"TLS Handshake First"' not in line]  # said once, when it starts

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def established(port: int) -> bool:
    """Whether this port has an established connection (/proc/net/tcp, proc_pid_net(5))."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] in {"01", "08"} for row in rows)
