"""The surroundings of an agent, real: Secret mounts switched as the kubelet does, and nats-server processes."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness.contract.bundle_factory import LeafFiles
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle
from tidemark.certificates import Leaf, parse_leaf

NATS_SERVER = Path(sys.executable).parent / "nats-server"
OLDEST_NATS_SERVER = Path(sys.prefix) / "servers" / "2.10" / "bin" / "nats-server"
NOBODY = 65534
PATIENCE = 20.0
"""How long a test waits for something that must happen, in seconds; far above what it takes."""


async def eventually(look: Callable[[], Any], what: str) -> Any:
    """Look, where need be with a coroutine, until there is something; fails naming ``what`` after ``PATIENCE``."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"expected {what} within {PATIENCE} s, it did not happen")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def launch(*command: object) -> "subprocess.Popen[bytes]":
    """Start a process, and return once it has the name of its program."""
    process = subprocess.Popen([str(part) for part in command])
    name = Path(str(command[0])).name[:15]
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{process.pid}/comm").read_text().strip() != name:
        assert time.monotonic() < deadline, f"expected a process named {name}"
    return process


def started(pid: int) -> float:
    """When a process started, in seconds of the boot clock."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    return {CA_FILE: bundle.ca, NOTE_FILE: bundle.note}


def leaf_files(leaf: LeafFiles) -> dict[str, bytes]:
    return {LEAF_FILE: leaf.crt, KEY_FILE: leaf.key}


def parsed(leaf: LeafFiles) -> Leaf:
    return parse_leaf(leaf.crt, leaf.key)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Be an ordinary user for a while, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


class KubeletMount:
    """A Secret mount: ``..<time>`` directories, ``..data`` renamed over, a link for each key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0

    def switch_to(self, files: Mapping[str, bytes]) -> None:
        """Switch to these files, as a change of the Secret does."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._number += 1
        fresh = self.path / f"..2026_01_01_00_00_00.{self._number:09}"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        data, link = self.path / "..data", self.path / "..data_tmp"
        before = data.resolve() if data.is_symlink() else None
        link.symlink_to(fresh.name)
        link.rename(data)
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for old in self.path.iterdir():
            if old.is_symlink() and not old.name.startswith("..") and old.name not in files:
                old.unlink()
        if before is not None:
            shutil.rmtree(before)


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
        """The part of a target's URL that says where to look."""
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
        """Start it, and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            self.write_config()
        self.process = subprocess.Popen([self.program, "-c", self.config, "-l", self.log])

    async def start(self) -> None:
        """Start it and wait until it answers."""
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
        """Wait until the process has lived that long."""
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
