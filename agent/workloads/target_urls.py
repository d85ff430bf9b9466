"""Reads a target from its URL; pure.

``signal:?process=nats-server&signal=HUP&monitor=http://127.0.0.1:8222&nats=127.0.0.1:4222&tls=127.0.0.1:6222``,
``signal:?pidfile=/var/run/nats/nats.pid&…``, ``http://127.0.0.1:9000/-/reload?token_file=/run/token``,
``nats-sys://127.0.0.1:4222?creds=/run/sys.creds``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals
from urllib.parse import SplitResult, parse_qsl, urlsplit

from agent.workloads.targets import HTTP_KEYS, Address, HttpTarget, SignalTarget, SystemTarget, Target
from tidemark.faults import Faults

SIGNALS = {"HUP": Signals.SIGHUP, "USR1": Signals.SIGUSR1, "USR2": Signals.SIGUSR2}
"""Signals at which workloads reload; signals that end a server by default are not among them."""

_SIGNAL_KEYS = ("process", "pidfile", "signal", "monitor", "nats", "tls")
_SYSTEM_KEYS = ("creds", "user", "password_file", "tls_name", "handshake_first", "nats", "tls")
_REPEATABLE = ("nats", "tls")
_DEFAULT_SYSTEM = "127.0.0.1:4222"


class TargetError(ValueError):
    """A target's URL is not usable; the message lists every fault."""


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
    if parts.scheme in {"http", "https"}:
        return _http_target(url, parts)
    if parts.scheme == "nats-sys":
        return _system_target(url, parts)
    raise TargetError(
        f"expected a URL that starts with signal:, http://, https:// or nats-sys://, found "
        f"{parts.scheme or 'no scheme'!r}"
    )


def _http_target(url: str, parts: SplitResult) -> HttpTarget:
    faults = Faults()
    if parts.username is not None or parts.password is not None:
        faults.add("expected no user and password in the URL, found some")
    if parts.fragment:
        faults.add("expected no fragment (#), found one")
    if not is_host(parts.hostname):
        found = repr(parts.hostname[:80]) if parts.hostname else "no host"
        faults.add(f"expected {parts.scheme}://host:port/path, found {found}")
    try:
        _ = parts.port
    except ValueError as error:
        faults.add(f"expected a port from 1 to 65535, found {error}")
    given = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] in HTTP_KEYS]
    own = _options(given, HTTP_KEYS, faults)
    token_file = _path("token_file", own, faults)
    if "tls_name" in own and parts.scheme != "https":
        faults.expected("tls_name", "with https:// alone", "it with http://")
    if faults:
        raise TargetError("; ".join(faults))
    return HttpTarget(url, token_file, own.get("tls_name"))


def _system_target(url: str, parts: SplitResult) -> SystemTarget:
    faults = Faults()
    if parts.path or parts.fragment:
        faults.add("expected nats-sys://host:port?key=value&…, found a path or a fragment (#)")
    if "@" in parts.netloc:
        faults.add("expected no user and password in the URL, found some; use user= and password_file=")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    own = _options(pairs, _SYSTEM_KEYS, faults)
    creds, password_file = _path("creds", own, faults), _path("password_file", own, faults)
    if ("user" in own) != ("password_file" in own) or ("creds" in own and "user" in own):
        faults.add("expected creds=, or user= and password_file=, or none of them, found another mixture")
    if own.get("handshake_first", "true") != "true":
        faults.expected("handshake_first", "true", repr(own["handshake_first"]))
    address = _address("host:port", parts.netloc.rpartition("@")[2] or _DEFAULT_SYSTEM, faults)
    ports = _ports(pairs, faults)
    if not any(ports.values()):
        ports["tls" if "handshake_first" in own else "nats"] = (address,)
    if faults:
        raise TargetError("; ".join(faults))
    return SystemTarget(
        url=url,
        address=address,
        creds=creds,
        user=own.get("user"),
        password_file=password_file,
        tls_name=own.get("tls_name"),
        handshake_first="handshake_first" in own,
        nats=ports["nats"],
        tls=ports["tls"],
    )


def _options(pairs: Sequence[tuple[str, str]], known: Sequence[str], faults: Faults) -> Mapping[str, str]:
    """The first value of each key; every fault is added to ``faults``."""
    given: dict[str, list[str]] = {}
    for key, value in pairs:
        given.setdefault(key, []).append(value)
    for key, values in given.items():
        if key not in known:
            faults.expected(key, f"one of {', '.join(known)}", "this key")
        elif len(values) > 1 and key not in _REPEATABLE:
            faults.expected(key, "once", f"{len(values)} times")
        elif "" in values:
            faults.expected(key, "a value", "none")
    return {key: values[0] for key, values in given.items()}


def _path(key: str, options: Mapping[str, str], faults: Faults) -> Path | None:
    value = options.get(key)
    if value and not value.startswith("/"):
        faults.expected(key, "a path that starts with '/'", repr(value))
    return Path(value) if value else None


def _ports(pairs: Sequence[tuple[str, str]], faults: Faults) -> dict[str, tuple[Address, ...]]:
    return {
        key: tuple(_address(key, value, faults) for found, value in pairs if found == key and value)
        for key in _REPEATABLE
    }


def _signal_target(url: str, parts: SplitResult) -> SignalTarget:
    faults = Faults()
    if parts.netloc or parts.path or parts.fragment:
        faults.add("expected signal:?key=value&…, found something between 'signal:' and '?', or a fragment (#)")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    first = _options(pairs, _SIGNAL_KEYS, faults)
    pidfile = first.get("pidfile")
    if "process" not in first and pidfile is None:
        faults.add("expected process=<name> or pidfile=<path>, found neither")
    if "/" in first.get("process", ""):
        faults.expected("process", "a name without '/'", repr(first["process"]))
    _path("pidfile", first, faults)
    name = first.get("signal", "HUP").removeprefix("SIG")
    if name not in SIGNALS:
        faults.expected("signal", f"one of {', '.join(SIGNALS)}", repr(name))
    monitor = _monitor(first["monitor"], faults) if first.get("monitor") else None
    addresses = _ports(pairs, faults)
    if faults:
        raise TargetError("; ".join(faults))
    process = first.get("process", "nats-server")
    return SignalTarget(url, process, pidfile, SIGNALS[name], monitor, addresses["nats"], addresses["tls"])


def is_host(name: str | None) -> bool:
    """Whether this can be the name (RFC 1035) or the address of a host."""
    try:
        return bool(name and name.encode("idna"))
    except UnicodeError:
        return False


def _monitor(value: str, faults: Faults) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme == "http" and is_host(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        faults.expected("monitor", "http://host:port", repr(value))
    return value.rstrip("/")


def _address(key: str, value: str, faults: Faults) -> Address:
    try:
        parts = urlsplit(f"//{value}")
        address = Address(parts.hostname or "", parts.port or 0)
    except ValueError:
        address = Address("", 0)
    if not is_host(address.host) or not address.port or value not in (str(address), f"{address.host}:{address.port}"):
        faults.expected(key, "host:port", repr(value))
    return address
