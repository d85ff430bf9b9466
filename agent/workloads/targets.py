"""Targets: the workloads to reload, how to reach each one and where it can be probed; pure.

The URLs that a configuration names them by are read in ``target_urls``.
"""

from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from urllib.parse import urlsplit

from tidemark.receipt import Level

HTTP_KEYS = ("token_file", "tls_name")
"""Keys in the query of an HTTP target's URL that are the agent's; the others are the application's."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SignalTarget:
    """A process that reloads at a signal."""

    url: str
    """As configured."""
    process: str
    """Name that the process must have, also where ``pidfile`` names the process."""
    pidfile: str | None
    """File with the pid; None: the process is found by its name."""
    signal: Signals
    """What to send."""
    monitor: str | None
    """Monitoring URL of a nats-server; None: its load time is not compared."""
    nats: tuple[Address, ...]
    """Ports to probe that send an INFO line before TLS."""
    tls: tuple[Address, ...]
    """Ports to probe that begin with TLS."""

    @property
    def name(self) -> str:
        """A short name for metrics."""
        return f"signal:{self.pidfile or self.process}"

    @property
    def can_be_probed(self) -> bool:
        """Whether CA list and leaf can be read without a reload."""
        return bool(self.nats or self.tls)

    @property
    def allowed(self) -> Level:
        """The highest level of proof with this configuration."""
        if self.can_be_probed:
            return Level.PROVEN
        return Level.RELOADED if self.monitor else Level.SIGNALLED


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """An application that reloads at a request over HTTP or HTTPS, and answers with the digest that it uses then."""

    url: str
    """As configured: with the agent's own keys in the query."""
    token_file: Path | None = None
    """File with a bearer token; None: no token is sent."""
    tls_name: str | None = None
    """Name in the application's certificate; None: the host of the URL."""
    can_be_probed = False

    @property
    def endpoint(self) -> str:
        """The URL to send the request to, without the agent's own keys."""
        parts = urlsplit(self.url)
        own = tuple(f"{key}=" for key in HTTP_KEYS)
        query = "&".join(part for part in parts.query.split("&") if not part.startswith(own))
        return parts._replace(query=query).geturl()

    @property
    def name(self) -> str:
        """A short name for metrics."""
        return self.url

    @property
    def allowed(self) -> Level:
        """The highest level of proof; an application whose answers carry no digest reaches less."""
        return Level.PROVEN


@dataclass(frozen=True, slots=True)
class SystemTarget:
    """A nats-server that reloads at a request over the system account.

    A field for each key of its URL, so more fields than other classes have. Without ``creds`` and ``user`` the
    installed leaf is the login.
    """

    url: str
    """As configured."""
    address: Address
    """Client port that takes the request."""
    creds: Path | None
    """File with a JWT and a seed to log in with."""
    user: str | None
    """User to log in as, with ``password_file``."""
    password_file: Path | None
    """File with the user's password."""
    tls_name: str | None
    """Name in the server's certificate; None: the host of ``address``."""
    handshake_first: bool
    """Whether the server begins with TLS, as ``handshake_first`` in its configuration."""
    nats: tuple[Address, ...]
    """Ports to probe that send an INFO line before TLS."""
    tls: tuple[Address, ...]
    """Ports to probe that begin with TLS."""
    monitor = None
    can_be_probed = True

    @property
    def name(self) -> str:
        """A short name for metrics."""
        return f"nats-sys://{self.address}"

    @property
    def allowed(self) -> Level:
        """The highest level of proof."""
        return Level.PROVEN


Target = SignalTarget | HttpTarget | SystemTarget
