"""Real nats-servers with mutual TLS, alone or in a cluster, and the agent's output directory as applications see it."""

import asyncio
import hashlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import tidemark.nats
from playground.layout import free_ports
from tests.harness.paths import NATS_SERVER
from tests.harness.pki.certificates import Lifetime, SigningCa, ca_certificate, common_name, key_pem, leaf_certificate
from tests.harness.waiting import PATIENCE, eventually


class ClusterCa:
    """A self-signed CA, and the leaves it signs."""

    def __init__(self, name: str) -> None:
        self._issuer = SigningCa(common_name(name), ec.generate_private_key(ec.SECP256R1()))
        self.certificate = ca_certificate(self._issuer, self._lifetime(), path_length=0)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def leaf(self, name: str = "application") -> tuple[bytes, bytes]:
        """A new certificate for 127.0.0.1 and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = leaf_certificate(name, key, self._lifetime(), self._issuer)
        return certificate.public_bytes(serialization.Encoding.PEM), key_pem(key)

    def _lifetime(self) -> Lifetime:
        now = int(time.time())
        return Lifetime(now - 300, now + 7200)


@dataclass
class InstalledOutput:
    """The agent's output directory, switched as the agent and the kubelet switch it."""

    path: Path
    switched: int = 0

    def install(self, ca: bytes, certificate: bytes, key: bytes, note: bytes | None = None) -> None:
        self.path.mkdir(exist_ok=True)
        old = self.path / f"..{self.switched}"
        self.switched += 1
        generation = self.path / f"..{self.switched}"
        generation.mkdir()
        files = {"ca.crt": ca, "tls.crt": certificate, "tls.key": key} | ({"bundle.note": note} if note else {})
        for name, content in files.items():
            (generation / name).write_bytes(content)
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        temporary = self.path / "..data_tmp"
        temporary.symlink_to(generation.name)
        temporary.rename(self.path / "..data")
        if old.exists():
            for file in old.iterdir():
                file.unlink()
            old.rmdir()

    def digests(self) -> tuple[str, str]:
        """SHA-256 of ca.crt's bytes, and of the DER of tls.crt's first certificate."""
        leaf = x509.load_pem_x509_certificate((self.path / "tls.crt").read_bytes())
        ca = hashlib.sha256((self.path / "ca.crt").read_bytes()).hexdigest()
        return ca, leaf.fingerprint(hashes.SHA256()).hex()


@dataclass
class NatsNode:
    home: Path
    port: int
    route: int
    monitor: int
    process: subprocess.Popen[bytes] | None = None
    extra: str = ""
    """Further lines of the configuration."""
    peers: list[int] | None = None
    """The route ports that it connects to, where that is not every other node's."""

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        path = self.home / "log"
        return path.read_text() if path.exists() else ""

    def start(self) -> None:
        command = [str(NATS_SERVER), "-c", str(self.home / "nats.conf")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def set_trust(self, trusted: list[ClusterCa], issuer: ClusterCa) -> None:
        certificate, key = issuer.leaf(self.home.name)
        (self.home / "ca.crt").write_bytes(b"".join(ca.pem for ca in trusted))
        (self.home / "tls.crt").write_bytes(certificate)
        (self.home / "tls.key").write_bytes(key)

    async def connections(self) -> int:
        """The number of connections that were ever made to this server."""
        async with aiohttp.request("GET", f"http://127.0.0.1:{self.monitor}/varz") as answer:
            return int((await answer.json())["total_connections"])

    async def reload(self) -> None:
        def times() -> int:
            return self.log.count("Reloaded server configuration")

        before = times()
        self.signal(signal.SIGHUP)
        await eventually(lambda: times() > before, f"{self.home.name} reloads")


class NatsServers:
    """One server, or several in a cluster; clients and routes with ``verify: true``."""

    def __init__(self, home: Path, count: int, *, jetstream: bool = True) -> None:
        self._jetstream = jetstream
        ports = free_ports(3 * count)
        triples = zip(ports[::3], ports[1::3], ports[2::3], strict=True)
        self.nodes = [NatsNode(home / f"n{i}", *triple) for i, triple in enumerate(triples)]
        for node in self.nodes:
            node.home.mkdir(parents=True)
            self.configure(node)

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def configure(self, node: NatsNode) -> None:
        home = node.home
        tls = f'{{ ca_file: "{home}/ca.crt", cert_file: "{home}/tls.crt", key_file: "{home}/tls.key", verify: true }}'
        peers = [other.route for other in self.nodes if other is not node] if node.peers is None else node.peers
        routes = ", ".join(f'"tls://127.0.0.1:{port}"' for port in peers)
        one_route = ", pool_size: -1" if node.peers is not None else ""
        cluster = f"name: test, listen: 127.0.0.1:{node.route}, routes: [{routes}], tls: {tls}{one_route}"
        (home / "nats.conf").write_text(
            f"server_name: {home.name}\nlisten: 127.0.0.1:{node.port}\nhttp: 127.0.0.1:{node.monitor}\n"
            f"logfile: {home}/log\ntls: {tls}\n"
            + (f"cluster: {{ {cluster} }}\n" if len(self.nodes) > 1 else "")
            + (f'jetstream: {{ store_dir: "{home}/js", max_mem: 256MB, max_file: 256MB }}\n' if self._jetstream else "")
            + node.extra
        )

    def set_trust(self, trusted: list[ClusterCa], issuer: ClusterCa) -> None:
        """Write what the servers trust and serve; a start or ``reload`` makes them use it."""
        for node in self.nodes:
            node.set_trust(trusted, issuer)

    async def reload(self) -> None:
        await asyncio.gather(*(node.reload() for node in self.nodes))

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


def digests(connection: tidemark.nats.Connection) -> tuple[str, str]:
    """The digests that the connection reports; compare with ``InstalledOutput.digests``."""
    return connection.ca_sha256, connection.leaf_sha256


@asynccontextmanager
async def slow_link(target: int, delay: float) -> AsyncIterator[int]:
    """A port that forwards to ``target`` after ``delay`` seconds; answers are not delayed."""
    async with asyncio.TaskGroup() as group:

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: float) -> None:
            loop = asyncio.get_running_loop()
            try:
                while data := await reader.read(65536):
                    loop.call_later(wait, writer.write, data)
            finally:
                writer.transport.abort()

        async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                onward_reader, onward = await asyncio.open_connection("127.0.0.1", target)
                await asyncio.gather(copy(reader, onward, delay), copy(onward_reader, writer, 0))
            except ConnectionError:
                writer.transport.abort()

        server = await asyncio.start_server(
            lambda reader, writer: tasks.append(group.create_task(lead(reader, writer))), "127.0.0.1", 0
        )
        tasks: list[asyncio.Task[None]] = []
        yield int(server.sockets[0].getsockname()[1])
        server.close()
        for task in tasks:
            task.cancel()


async def connect_eventually(servers: list[str], output: InstalledOutput, **options: Any) -> tidemark.nats.Connection:
    """Connect to servers that may be still starting."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await tidemark.nats.connect(servers, directory=output.path, **options)
        except tidemark.nats.ConnectFailed:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
