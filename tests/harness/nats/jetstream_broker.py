"""A real nats-server with JetStream that demands client certificates."""

import json
import subprocess
import time
from pathlib import Path

from tests.harness.paths import NATS_SERVER
from tests.harness.waiting import PATIENCE


class JetStreamBroker:
    """One server on 127.0.0.1; it chooses a port at its first start and keeps the port."""

    def __init__(self, root: Path, files: Path) -> None:
        self._root = root
        self._files = files
        self._port = -1
        self.monitor = ""
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(exist_ok=True)

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self._port}"

    def start(self) -> None:
        configuration = self._root / "nats.conf"
        configuration.write_text(
            f"""
            listen: "127.0.0.1:{self._port}"
            http: "127.0.0.1:-1"
            ports_file_dir: "{self._root}"
            jetstream {{ store_dir: "{self._root}/store" }}
            tls {{
              cert_file: "{self._files}/tls.crt"
              key_file: "{self._files}/tls.key"
              ca_file: "{self._files}/ca.crt"
              verify: true
            }}
            """
        )
        log = self._root / "nats.log"
        self._process = subprocess.Popen([NATS_SERVER, "-c", configuration, "-l", log])
        ports = self._root / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                shown = json.loads(ports.read_text())
                (url,), (self.monitor,) = shown["nats"], shown["monitoring"]
                break
            except (OSError, ValueError, KeyError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"nats-server did not start: {log.read_text()}") from None
                time.sleep(0.01)
        self._port = int(url.rpartition(":")[2])

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None
