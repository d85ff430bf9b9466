"""Targets: which workload reloads, how it is told, and how it shows what it uses, all in one URL; pure.

``signal:?process=nats-server&signal=HUP&monitor=http://127.0.0.1:8222&nats=127.0.0.1:4222&tls=127.0.0.1:6222``,
``signal:?pidfile=/var/run/nats/nats.pid&…``, ``http://127.0.0.1:9000/-/reload``.
"""

from dataclasses import dataclass
from signal import Signals
from urllib.parse import SplitResult, parse_qsl, urlsplit

from tidemark.receipt import Level

SIGNALS = {"HUP": Signals.SIGHUP, "USR1": Signals.SIGUSR1, "USR2": Signals.SIGUSR2}
"""Signals by which workloads reload; none whose default for a server is to end at once without a word."""

_SIGNAL_KEYS = ("process", "pidfile", "signal", "monitor", "nats", "tls")
_REPEATABLE = ("nats", "tls")


class TargetError(ValueError):
    """A target's URL is not usable; the message lists every fault."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SignalTarget:
    """A process that is signalled.

    ``process`` is the name it must have, also where ``pidfile`` says which one it is. ``monitor`` is a nats-server's
    monitoring URL; ``nats`` are ports that greet with INFO before TLS, ``tls`` ports that begin with TLS.
    """

    url: str
    process: str
    pidfile: str | None
    signal: Signals
    monitor: str | None
    nats: tuple[Address, ...]
    tls: tuple[Address, ...]

    @property
    def name(self) -> str:
        """A short name for metrics."""
        return f"signal:{self.pidfile or self.process}"

    @property
    def shows(self) -> bool:
        """Whether CA list and leaf can be looked at without telling the workload anything."""
        return bool(self.nats or self.tls)

    @property
    def allowed(self) -> Level:
        """The most that the workload can show with this configuration."""
        if self.shows:
            return Level.PROVEN
        return Level.RELOADED if self.monitor else Level.SIGNALLED


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """An application that is asked over HTTP, and answers with the digest that it now uses."""

    url: str
    shows = False

    @property
    def name(self) -> str:
        """A short name for metrics."""
        return self.url

    @property
    def allowed(self) -> Level:
        """The most that the workload can show; less where its answers carry no digest."""
        return Level.PROVEN


Target = SignalTarget | HttpTarget


def parse_target(url: str) -> Target:
    """Read one target.

    Raises:
        TargetError: unknown scheme, unknown or missing parts, or values of another form; all faults at once.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise TargetError(f"expected a URL, found {error}") from None
    if parts.scheme == "signal":
        return _signal_target(url, parts)
    if parts.scheme == "http":
        return _http_target(url, parts)
    raise TargetError(f"expected a URL that starts with signal: or http://, found {parts.scheme or 'no scheme'!r}")


def _http_target(url: str, parts: SplitResult) -> HttpTarget:
    faults = []
    if parts.username is not None or parts.password is not None:
        faults.append("expected no user and password in the URL, found some")
    if parts.fragment:
        faults.append("expected no fragment (#), found one")
    if not parts.hostname:
        faults.append("expected http://host:port/path, found no host")
    try:
        _ = parts.port
    except ValueError as error:
        faults.append(f"expected a port from 1 to 65535, found {error}")
    if faults:
        raise TargetError("; ".join(faults))
    return HttpTarget(url)


def _signal_target(url: str, parts: SplitResult) -> SignalTarget:
    faults: list[str] = []
    if parts.netloc or parts.path or parts.fragment:
        faults.append("expected signal:?key=value&…, found something between 'signal:' and '?', or a fragment (#)")
    given: dict[str, list[str]] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        given.setdefault(key, []).append(value)
    for key, values in given.items():
        if key not in _SIGNAL_KEYS:
            faults.append(f"{key}: expected one of {', '.join(_SIGNAL_KEYS)}, found this key")
        elif len(values) > 1 and key not in _REPEATABLE:
            faults.append(f"{key}: expected once, found {len(values)} times")
        elif "" in values:
            faults.append(f"{key}: expected a value, found none")
    first = {key: values[0] for key, values in given.items()}
    pidfile = first.get("pidfile")
    if "process" not in first and pidfile is None:
        faults.append("expected process=<name> or pidfile=<path>, found neither")
    if "/" in first.get("process", ""):
        faults.append(f"process: expected a name without '/', found {first['process']!r}")
    if pidfile and not pidfile.startswith("/"):
        faults.append(f"pidfile: expected a path that starts with '/', found {pidfile!r}")
    name = first.get("signal", "HUP").removeprefix("SIG")
    if name not in SIGNALS:
        faults.append(f"signal: expected one of {', '.join(SIGNALS)}, found {name!r}")
    monitor = _monitor(first["monitor"], faults) if first.get("monitor") else None
    addresses = {
        key: tuple(_address(key, value, faults) for value in given.get(key, []) if value) for key in _REPEATABLE
    }
    if faults:
        raise TargetError("; ".join(faults))
    process = first.get("process", "nats-server")
    return SignalTarget(url, process, pidfile, SIGNALS[name], monitor, addresses["nats"], addresses["tls"])


def _monitor(value: str, faults: list[str]) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme == "http" and parts.hostname and parts.port != 0 and parts.username is None
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        faults.append(f"monitor: expected http://host:port, found {value!r}")
    return value.rstrip("/")


def _address(key: str, value: str, faults: list[str]) -> Address:
    try:
        parts = urlsplit(f"//{value}")
        address = Address(parts.hostname or "", parts.port or 0)
    except ValueError:
        address = Address("", 0)
    if not address.host or not address.port or value not in (str(address), f"{address.host}:{address.port}"):
        faults.append(f"{key}: expected host:port, found {value!r}")
    return address
