"""Paths and ports of one playground; only ``free_ports`` does any I/O."""

import contextlib
import random
import socket
from dataclasses import dataclass
from pathlib import Path

TRUST_DOMAIN = "playground.tidemark"
HOST = "127.0.0.1"
SERVERS = ("nats-0", "nats-1", "nats-2")
APPLICATIONS = ("publisher", "consumer")
OPENBAO_ROLE = "tidemark"
"""The authority's role in OpenBao; also its role id, which need not be secret."""


_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 10_000


def free_ports(count: int) -> list[int]:
    """Free ports on 127.0.0.1; all are held until the last is found, so that they differ.

    They lie below the range that the kernel takes the ports of outgoing connections from (ip(7)): a port of that range
    could be taken by a connection before the server that it is meant for listens.
    """
    end = int(_EPHEMERAL.read_text().split()[0])
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            probe = stack.enter_context(socket.socket())
            port = random.randrange(_LOWEST_PORT, end) if end > 2 * _LOWEST_PORT else 0  # noqa: S311 # no secret
            with contextlib.suppress(OSError):  # in use: another one then
                probe.bind((HOST, port))
                ports.append(int(probe.getsockname()[1]))
        return ports


@dataclass(frozen=True, slots=True)
class PodLayout:
    """The stand-in for one pod: two mounts, the agent's output directory, its logs, and the agent's port."""

    name: str
    root: Path
    agent_port: int

    @property
    def bundle_mount(self) -> Path:
        """Where the bundle Secret would be mounted."""
        return self.root / "mount" / "bundle"

    @property
    def leaf_mount(self) -> Path:
        """Where the leaf Secret would be mounted."""
        return self.root / "mount" / "leaf"

    @property
    def out(self) -> Path:
        """What the agent writes and the workload reads."""
        return self.root / "out"

    @property
    def agent_url(self) -> str:
        """The agent's own endpoint."""
        return f"http://{HOST}:{self.agent_port}"


@dataclass(frozen=True, slots=True)
class ServerPod(PodLayout):
    """A pod with a nats-server."""

    client_port: int
    route_port: int
    monitor_port: int

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://{HOST}:{self.client_port}"

    @property
    def monitor_url(self) -> str:
        """The server's monitoring endpoint."""
        return f"http://{HOST}:{self.monitor_port}"

    @property
    def pid_file(self) -> Path:
        """Written by the server, read by its agent."""
        return self.root / "nats.pid"

    @property
    def target(self) -> str:
        """The agent's target: how the server is signalled, and how it proves the set that it loaded."""
        return (
            f"signal:?pidfile={self.pid_file}&signal=HUP&monitor={self.monitor_url}"
            f"&nats={HOST}:{self.client_port}&tls={HOST}:{self.route_port}"
        )


@dataclass(frozen=True, slots=True)
class ApplicationPod(PodLayout):
    """A pod with a loaded application."""

    reload_port: int

    @property
    def state_file(self) -> Path:
        """Where the application writes what it counted."""
        return self.root / "state.json"

    @property
    def target(self) -> str:
        """The agent's target: the application's own reload endpoint."""
        return f"http://{HOST}:{self.reload_port}/-/reload"


@dataclass(frozen=True, slots=True)
class Layout:
    """One playground under ``root`` (an absolute path)."""

    root: Path
    servers: tuple[ServerPod, ...]
    applications: tuple[ApplicationPod, ...]
    authority_port: int
    openbao_port: int

    @classmethod
    def allot(cls, root: Path) -> "Layout":
        """Choose free ports for everything."""
        ports = iter(free_ports(2 + 4 * len(SERVERS) + 2 * len(APPLICATIONS)))
        authority_port, openbao_port = next(ports), next(ports)
        servers = tuple(
            ServerPod(name, root / name, next(ports), next(ports), next(ports), next(ports)) for name in SERVERS
        )
        applications = tuple(ApplicationPod(name, root / name, next(ports), next(ports)) for name in APPLICATIONS)
        return cls(root, servers, applications, authority_port, openbao_port)

    @property
    def pods(self) -> tuple[ServerPod | ApplicationPod, ...]:
        """Every pod, servers first."""
        return (*self.servers, *self.applications)

    @property
    def authority_config(self) -> Path:
        """The authority's configuration file."""
        return self.root / "authority.toml"

    @property
    def authority_state(self) -> Path:
        """The authority's journal and keys."""
        return self.root / "authority"

    @property
    def authority_url(self) -> str:
        """The authority's API."""
        return f"https://{HOST}:{self.authority_port}"

    @property
    def openbao(self) -> Path:
        """The secrets of OpenBao's development server, where it is the issuer."""
        return self.root / "openbao"

    @property
    def openbao_url(self) -> str:
        """OpenBao's API."""
        return f"https://{HOST}:{self.openbao_port}"

    @property
    def openbao_ca(self) -> Path:
        """The CA of OpenBao's own certificate, which it makes as it starts."""
        return self.openbao / "vault-ca.pem"

    @property
    def trust_file(self) -> Path:
        """The trust file that every agent reads."""
        return self.root / "trust.toml"

    @property
    def logs(self) -> Path:
        """One log file for each process; these stay after the end."""
        return self.root / "logs"

    @property
    def summary_file(self) -> Path:
        """The summary of the run; it stays after the end."""
        return self.root / "summary.json"

    @property
    def server_urls(self) -> str:
        """The URLs of all servers, for clients."""
        return ",".join(server.url for server in self.servers)
