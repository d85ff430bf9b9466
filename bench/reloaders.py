"""Three ways to have a nats-server take a new CA file: the agent, a loop around inotifywait, and OpenBao's agent.

Each reads from its own source and leaves its files in ``files``, where the server finds them through a link. The pace
is the caller's; ``change`` returns when the source had the new file, by the wall clock.
"""

import asyncio
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Protocol

import psutil

from agent.store.state_file import STATE_FILE
from tests.harness.agent.mounts import KubeletMount, bundle_files, leaf_files
from tests.harness.agent.sandbox import AgentProcess, AgentSandbox
from tests.harness.contract.bundle_factory import BundleFactory, LeafFiles
from tests.harness.nats.server import NatsServer
from tests.harness.ports import free_port
from tests.harness.waiting import eventually
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, Bundle

BAO = Path(sys.executable).parent / "bao"
RENDER_SECONDS = 1
"""How often OpenBao's agent asks for a secret that has no lease; by default every five minutes."""
NEVER_SECONDS = 20
"""After which a change that the server has not loaded counts as one that it never will."""
_TOKEN = "bench"  # noqa: S105 - of a development server that lives as long as the benchmark


class Reloading(Protocol):
    """A program that reloads the server for a new bundle; ``verifies`` and ``proves``: its checks before and after."""

    name: str
    verifies: str
    proves: str
    files: Path

    async def start(self, bundle: Bundle) -> None:
        """Start it on a first bundle; return once the files lie there."""

    def change(self, bundle: Bundle) -> float:
        """Give the source another bundle."""

    def processes(self) -> list[psutil.Process]:
        """What of it runs beside the server."""

    def stop(self) -> None:
        """End what was started."""


class TidemarkAgent:
    """``python -m agent`` with everything on."""

    name = "Tidemark agent"
    verifies = "signature, domain, time, every certificate, sequence, overlap"
    proves = "load time, CA list and leaf in a handshake with each port"

    def __init__(
        self, folder: Path, factory: BundleFactory, leaf: LeafFiles, server: NatsServer, **variables: str
    ) -> None:
        self.sandbox = AgentSandbox(folder, factory)
        self.sandbox.targets = server.target
        self.files = self.sandbox.out
        self.variables = variables
        self.agent = AgentProcess(self.sandbox.environment(**variables))
        self._leaf = leaf

    async def start(self, bundle: Bundle) -> None:
        self.sandbox.mount(bundle, self._leaf)
        self.agent.start(self.sandbox.folder / "agent.log")
        await self.agent.answers("/startupz")

    def change(self, bundle: Bundle) -> float:
        changed = time.time()
        self.sandbox.mount(bundle)
        return changed

    def remembers(self) -> int:
        """The sequence that it has written down as proven; 0: none yet."""
        proven = json.loads(self.sandbox.file(STATE_FILE))["proven"]
        return int(proven["mark"]["sequence"]) if proven else 0

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.agent.process.pid)] if self.agent.process else []

    def stop(self) -> None:
        self.agent.stop()


class InotifyLoop:
    """``inotifywait … | while read; do kill -HUP; done`` on the mounted Secret, as many deployments have it."""

    name = "inotifywait and kill -HUP"
    verifies = proves = "nothing"
    _LOOP = 'inotifywait -m -e moved_to --format %f "$1" | while read -r name; do kill -HUP "$(cat "$2")"; done'

    def __init__(self, folder: Path, leaf: LeafFiles, server: NatsServer) -> None:
        self._mount = KubeletMount(folder / "secret")
        self.files = self._mount.path
        self._log = folder / "loop.log"
        self._leaf, self._server = leaf, server
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("inotifywait") is not None

    async def start(self, bundle: Bundle) -> None:
        self.change(bundle)
        with self._log.open("wb") as log:
            command = ["sh", "-c", self._LOOP, "loop", str(self.files), str(self._server.pidfile)]
            self._process = subprocess.Popen(command, stderr=log, start_new_session=True)  # noqa: ASYNC220
        await eventually(lambda: "established" in self._log.read_text(), "inotifywait to watch")

    def change(self, bundle: Bundle) -> float:
        changed = time.time()
        self._mount.switch_to(bundle_files(bundle) | leaf_files(self._leaf))
        return changed

    def processes(self) -> list[psutil.Process]:
        return _family(self._process)

    def stop(self) -> None:
        _end(self._process)


class BaoAgent:
    """``bao agent``: a template that renders ``ca.crt`` from a KV secret, and a command to run then."""

    name = f"bao agent, template and exec, asks every {RENDER_SECONDS} s"
    verifies = proves = "nothing"

    def __init__(self, folder: Path, leaf: LeafFiles, server: NatsServer) -> None:
        self.files = folder / "rendered"
        self._folder, self._leaf, self._pidfile = folder, leaf, server.pidfile
        self._url = f"http://127.0.0.1:{free_port()}"
        self._server: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None

    async def start(self, bundle: Bundle) -> None:
        self.files.mkdir(parents=True)
        for name, content in ((LEAF_FILE, self._leaf.crt), (KEY_FILE, self._leaf.key)):
            (self.files / name).write_bytes(content)
        address = self._url.removeprefix("http://")
        options = [f"-dev-root-token-id={_TOKEN}", f"-dev-listen-address={address}", "-dev-no-store-token"]
        self._server = self._run("server", "-dev", *options)
        await eventually(lambda: self._answers("/v1/sys/health"), "the OpenBao server to answer")
        await eventually(lambda: self._answers("/v1/secret/config"), "the mount secret/ to be there")
        self.change(bundle)
        (self._folder / "token").write_text(_TOKEN)
        (self._folder / "agent.hcl").write_text(self._configuration())
        self._agent = self._run("agent", f"-config={self._folder / 'agent.hcl'}")
        await eventually((self.files / CA_FILE).exists, "OpenBao's agent to render")
        # A secret written in the moment after the first rendering was now and then never rendered at all.
        await asyncio.sleep(3 * RENDER_SECONDS)

    def _configuration(self) -> str:
        contents = (
            f'{{{{ with secret \\"secret/data/nats\\" }}}}{{{{ index .Data.data \\"{CA_FILE}\\" }}}}{{{{ end }}}}'
        )
        return f"""
            vault {{ address = "{self._url}" }}
            auto_auth {{
              method {{
                type = "token_file"
                config = {{ token_file_path = "{self._folder / "token"}" }}
              }}
            }}
            template_config {{ static_secret_render_interval = "{RENDER_SECONDS}s" }}
            template {{
              contents = "{contents}"
              destination = "{self.files / CA_FILE}"
              exec {{ command = ["sh", "-c", "kill -HUP $(cat {self._pidfile})"] }}
            }}
            """

    def _run(self, *arguments: str) -> "subprocess.Popen[bytes]":
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder)}
        with (self._folder / f"{arguments[0]}.log").open("wb") as log:
            command = [str(BAO), *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def _answers(self, path: str) -> bool:
        try:
            self._ask(path)
        except OSError:
            return False
        return True

    def _ask(self, path: str, body: object = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers={"X-Vault-Token": _TOKEN})  # noqa: S310
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310 - the server started above
            response.read()

    def change(self, bundle: Bundle) -> float:
        changed = time.time()
        self._ask("/v1/secret/data/nats", {"data": {CA_FILE: bundle.ca.decode()}})
        return changed

    def processes(self) -> list[psutil.Process]:
        return _family(self._agent)

    def stop(self) -> None:
        _end(self._agent)
        _end(self._server)


def _family(process: "subprocess.Popen[bytes] | None") -> list[psutil.Process]:
    if process is None:
        return []
    head = psutil.Process(process.pid)
    return [head, *head.children(recursive=True)]


def _end(process: "subprocess.Popen[bytes] | None") -> None:
    """End a process that leads a session of its own, and all of that."""
    if process is not None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Monitor:
    """When a nats-server last took its configuration, as it says itself; asked over one connection that is kept."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._connection = http.client.HTTPConnection("127.0.0.1", server.monitor, timeout=5)

    def load_time(self) -> float:
        """By the wall clock."""
        self._connection.request("GET", "/varz")
        varz = json.loads(self._connection.getresponse().read())
        return datetime.fromisoformat(varz["config_load_time"]).timestamp()

    async def moved(self, before: float) -> float | None:
        """Wait until it is later than ``before``; None where it is not within ``NEVER_SECONDS``."""
        deadline = time.monotonic() + NEVER_SECONDS
        while time.monotonic() < deadline:
            if (now := self.load_time()) > before:
                return now
            await asyncio.sleep(0.01)
        return None

    async def point_to(self, way: Reloading) -> None:
        """Have the server read a way's files from now on."""
        fresh = self._server.files.with_name("fresh")
        fresh.symlink_to(way.files)
        fresh.rename(self._server.files)
        if self._server.process is not None:
            before = self.load_time()
            self._server.hang_up()
            await self.moved(before)
