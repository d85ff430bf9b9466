"""A real 3-node nats-server cluster with mutual TLS, and the agent's output directory as an application sees it."""

import asyncio
import datetime
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import tidemark.nats

SERVER = Path(sys.executable).parent / "nats-server"
DEADLINE = 15.0


class Ca:
    """A self-signed CA, and the leaves it signs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.certificate = (
            self._template(self._subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def leaf(self, name: str = "application") -> tuple[bytes, bytes]:
        """A new certificate for 127.0.0.1 and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost")]
        certificate = (
            self._template(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return (
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def _template(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=2))
        )


@dataclass
class Output:
    """The agent's output directory, switched the way the agent and the kubelet do."""

    path: Path
    switched: int = 0

    def install(self, ca: bytes, certificate: bytes, key: bytes) -> None:
        self.path.mkdir(exist_ok=True)
        self.switched += 1
        old = self.path / f"..{self.switched - 1}"
        generation = self.path / f"..{self.switched}"
        generation.mkdir()
        for name, content in (("ca.crt", ca), ("tls.crt", certificate), ("tls.key", key)):
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
        ca = (self.path / "ca.crt").read_bytes()
        leaf = ssl.PEM_cert_to_DER_cert((self.path / "tls.crt").read_text())
        return hashlib.sha256(ca).hexdigest(), hashlib.sha256(leaf).hexdigest()


def free_ports(count: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(count)]
    for one in with_sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


@dataclass
class Node:
    home: Path
    name: str
    port: int
    route: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.home / "log"


@dataclass
class Cluster:
    home: Path
    nodes: list[Node] = field(default_factory=list)
    trusted: bytes = b""
    issuer: Ca | None = None

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def start(self) -> None:
        ports = free_ports(6)
        self.nodes = [
            Node(self.home / f"n{i}", f"n{i}", port, route)
            for i, (port, route) in enumerate(zip(ports[:3], ports[3:], strict=True), start=1)
        ]
        for node in self.nodes:
            node.home.mkdir(parents=True)
            self._configure(node)
            self.start_node(node)

    def start_node(self, node: Node) -> None:
        node.process = subprocess.Popen(
            [SERVER, "-c", node.home / "nats.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _configure(self, node: Node) -> None:
        tls = f'{{ ca_file: "{node.home}/ca.crt", cert_file: "{node.home}/tls.crt", key_file: "{node.home}/tls.key"'
        tls += ", verify: true, timeout: 5 }"
        routes = ", ".join(f'"tls://127.0.0.1:{other.route}"' for other in self.nodes if other is not node)
        (node.home / "nats.conf").write_text(
            f"server_name: {node.name}\nlisten: 127.0.0.1:{node.port}\nlogfile: {node.log}\ntls: {tls}\n"
            f"cluster: {{ name: test, listen: 127.0.0.1:{node.route}, routes: [{routes}], tls: {tls} }}\n"
            f'jetstream: {{ store_dir: "{node.home}/js", max_memory_store: 256MB, max_file_store: 256MB }}\n'
        )

    def set_trust(self, trusted: list[Ca], issuer: Ca) -> None:
        """Write what the servers trust and serve; ``reload`` makes running ones use it."""
        self.trusted = b"".join(ca.pem for ca in trusted)
        self.issuer = issuer
        for node in self.nodes:
            certificate, key = issuer.leaf(node.name)
            (node.home / "ca.crt").write_bytes(self.trusted)
            (node.home / "tls.crt").write_bytes(certificate)
            (node.home / "tls.key").write_bytes(key)

    async def reload(self) -> None:
        """SIGHUP every server and wait until each serves its new leaf."""
        before = {node.name: node.log.read_text().count("Reloaded server configuration") for node in self.nodes}
        for node in self.nodes:
            assert node.process is not None
            node.process.send_signal(signal.SIGHUP)
        for node in self.nodes:
            await until(
                lambda node=node: node.log.read_text().count("Reloaded server configuration") > before[node.name],
                f"{node.name} reloads",
            )

    def stop(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.process.kill()
        for node in self.nodes:
            if node.process is not None:
                node.process.wait()


async def until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(seconds):
        try:
            while not condition():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            print(f"gave up waiting until {what}")
            raise


@pytest.fixture(scope="session")
def authorities() -> tuple[Ca, Ca]:
    """Two CAs; the servers of ``cluster`` trust both."""
    return Ca("first"), Ca("second")


@pytest.fixture(scope="session")
def stranger() -> Ca:
    """A CA that no server trusts."""
    return Ca("stranger")


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, authorities: tuple[Ca, Ca]) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    ports = free_ports(6)
    cluster.nodes = [
        Node(cluster.home / f"n{i}", f"n{i}", ports[i], ports[i + 3])
        for i in range(3)
    ]
    for node in cluster.nodes:
        node.home.mkdir()
        cluster._configure(node)
    cluster.set_trust(list(authorities), authorities[0])
    for node in cluster.nodes:
        cluster.start_node(node)
    yield cluster
    cluster.stop()


@pytest.fixture
async def cluster(running: Cluster, authorities: tuple[Ca, Ca], tmp_path: Path) -> Cluster:
    """Up, with a JetStream leader, serving leaves of the first CA and trusting both."""
    return running


@pytest.fixture
def output(tmp_path: Path, authorities: tuple[Ca, Ca]) -> Output:
    made = Output(tmp_path / "out")
    made.install(authorities[0].pem + authorities[1].pem, *authorities[0].leaf())
    return made
