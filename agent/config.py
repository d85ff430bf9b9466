"""The agent's configuration: its environment, read whole; every fault is reported at once."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from agent.log import Style
from agent.sources.directory_watch import WatchMode
from agent.workloads.target_urls import TargetError, is_host, parse_target
from agent.workloads.targets import Address, SystemTarget, Target
from tidemark.faults import Faults
from tidemark.receipt import PodClass

T = TypeVar("T")

PREFIX = "TIDEMARK_"
_DEFAULT_LISTEN = "0.0.0.0:9465"
_HANDSHAKE_FIRST = "?handshake_first=true"
_LONGEST_SPLAY = 3600.0
_LONGEST_NAME = 253
_LONGEST_UID = 64

_VARIABLES = (
    "BUNDLE",
    "LEAF",
    "TRUST",
    "OUT",
    "TARGETS",
    "POD",
    "POD_UID",
    "CLASS",
    "AUTHORITY_URL",
    "AUTHORITY_TOKEN_FILE",
    "NATS_URL",
    "NATS_CREDS_FILE",
    "LISTEN",
    "SPLAY",
    "WATCH",
    "LOG",
)
# A Service named tidemark-… in the pod's namespace makes the kubelet set these (enableServiceLinks).
_SERVICE_LINK = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


class AgentConfigError(ValueError):
    """The environment cannot be used; ``faults`` has a sentence for each fault, which begins with the variable."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The configuration. It has a field for each variable of the README, so more than other classes have."""

    bundle: Path
    """The mounted directory of the bundle."""
    leaf: Path | None
    """The mounted directory of the leaf; None where the agent does not manage the leaf."""
    trust: Path
    """The trust file."""
    out: Path
    """The output directory."""
    targets: tuple[Target, ...]
    """The workloads to reload."""
    pod: str
    """Name of the pod."""
    uid: str
    """UID of the pod."""
    pod_class: PodClass
    """Whether the authority waits for this pod."""
    authority_url: str | None
    """Base URL of the authority's API; None where no receipts are sent."""
    token_file: Path | None
    """The bearer token for the authority."""
    nats_servers: tuple[str, ...]
    """URLs of the broker; empty where announcements are not used."""
    nats_handshake_first: bool
    """Whether connections to the broker begin with TLS."""
    nats_creds: Path | None
    """Credentials for the broker; None where the leaf is the login."""
    listen: Address
    """Where health, metrics and status are served."""
    splay: float
    """Seconds over which the applications of a fleet spread their reloads."""
    watch: WatchMode
    """How changes of the mounts are noticed."""
    log: Style


def read_config(environment: Mapping[str, str]) -> AgentConfig:
    """Read the variables ``TIDEMARK_*``; an empty variable counts as not set.

    Raises:
        AgentConfigError: a variable is missing, unknown, or not what was expected; names all faults at once.
    """
    return _Reader(environment).read()


class _Reader:
    """Reads variable by variable and collects the faults."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._values = {
            name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        self._faults = Faults(PREFIX)

    def read(self) -> AgentConfig:
        for name in sorted(self._values.keys() - set(_VARIABLES)):
            if not _SERVICE_LINK.fullmatch(name):
                self._faults.expected(
                    name, f"a known variable ({', '.join(PREFIX + known for known in _VARIABLES)})", "this one"
                )
        config = AgentConfig(
            bundle=self._path("BUNDLE", "the directory of the mounted bundle"),
            leaf=self._optional_path("LEAF", "the directory of the mounted leaf"),
            trust=self._path("TRUST", "the path of the trust file"),
            out=self._path("OUT", "the output directory"),
            targets=self._targets(),
            pod=self._name("POD", _LONGEST_NAME),
            uid=self._name("POD_UID", _LONGEST_UID) if self._get("POD_UID") else self._get("POD")[:_LONGEST_UID],
            pod_class=self._parsed("CLASS", PodClass, "required or application", PodClass.REQUIRED),
            authority_url=self._authority_url(),
            token_file=self._optional_path("AUTHORITY_TOKEN_FILE", "the path of the token"),
            nats_servers=self._nats_servers(),
            nats_handshake_first=_HANDSHAKE_FIRST in self._get("NATS_URL"),
            nats_creds=self._optional_path("NATS_CREDS_FILE", "the path of the creds file"),
            listen=self._parsed("LISTEN", _address, "host:port", _address(_DEFAULT_LISTEN)),
            splay=self._parsed("SPLAY", _seconds, f"0 to {_LONGEST_SPLAY:.0f} seconds", 0.0),
            watch=self._parsed("WATCH", WatchMode, "auto, inotify or poll", WatchMode.AUTO),
            log=self._parsed("LOG", Style, "text or json", Style.TEXT),
        )
        self._check_combinations(config)
        if self._faults:
            raise AgentConfigError(list(self._faults))
        return config

    def _check_combinations(self, config: AgentConfig) -> None:
        """Variables that need another variable, or must differ from it."""
        if config.authority_url and not config.token_file:
            self._faults.expected("AUTHORITY_TOKEN_FILE", f"a path, as {PREFIX}AUTHORITY_URL is set", "nothing")
        if config.token_file and not self._get("AUTHORITY_URL"):
            self._faults.expected(
                "AUTHORITY_URL", f"https://host:port, as {PREFIX}AUTHORITY_TOKEN_FILE is set", "nothing"
            )
        if config.nats_servers and not config.leaf:
            self._faults.expected(
                "LEAF", f"a directory, as {PREFIX}NATS_URL is set (the leaf is the connection's)", "nothing"
            )
        if not config.leaf and any(isinstance(target, SystemTarget) for target in config.targets):
            self._faults.expected(
                "LEAF", "a directory, as a target is nats-sys:// (the leaf is the connection's)", "nothing"
            )
        if config.nats_creds and not self._get("NATS_URL"):
            self._faults.expected("NATS_URL", f"tls://host:port, as {PREFIX}NATS_CREDS_FILE is set", "nothing")
        for name in ("BUNDLE", "LEAF"):
            if self._get(name) and Path(self._get(name)) == config.out:
                self._faults.expected("OUT", f"another directory than {PREFIX}{name}", self._get("OUT"))

    def _get(self, name: str) -> str:
        return self._values.get(name, "").strip()

    def _path(self, name: str, what: str) -> Path:
        value = self._get(name)
        if not Path(value).is_absolute():
            self._faults.expected(name, f"{what}, an absolute path", value or "nothing")
        return Path(value)

    def _optional_path(self, name: str, what: str) -> Path | None:
        return self._path(name, what) if self._get(name) else None

    def _name(self, name: str, longest: int) -> str:
        value = self._get(name)
        if not 0 < len(value) <= longest or not value.isprintable():
            self._faults.expected(
                name, f"a name of 1 to {longest} characters", repr(value[:80]) if value else "nothing"
            )
        return value

    def _parsed(self, name: str, parse: Callable[[str], T], expected: str, default: T) -> T:
        value = self._get(name)
        if not value:
            return default
        try:
            return parse(value)
        except ValueError:
            self._faults.expected(name, expected, repr(value[:80]))
            return default

    def _targets(self) -> tuple[Target, ...]:
        targets: list[Target] = []
        for url in self._get("TARGETS").split():
            try:
                targets.append(parse_target(url))
            except TargetError as error:
                self._faults.add_to("TARGETS", f"{url}: {error}")
            if self._get("TARGETS").split().count(url) > 1:
                self._faults.expected("TARGETS", "each target once", f"{url} more than once")
        return tuple(targets)

    def _nats_servers(self) -> tuple[str, ...]:
        """Separated by spaces, commas or both; ``?handshake_first=true`` at each of them or at none."""
        given = self._get("NATS_URL").replace(",", " ").split()
        servers = tuple(url.removesuffix(_HANDSHAKE_FIRST) for url in given)
        if len({url.endswith(_HANDSHAKE_FIRST) for url in given}) > 1:
            self._faults.expected("NATS_URL", f"{_HANDSHAKE_FIRST} at each URL or at none", "it at some of them")
        for url in servers:
            try:
                parts = urlsplit(url)
                usable = parts.scheme in {"tls", "nats"} and is_host(parts.hostname) and parts.port != 0
            except ValueError:
                usable = False
                parts = urlsplit("")
            if "@" in url:  # never printed: it may hold a password
                self._faults.expected(
                    "NATS_URL", f"no login in the URL, but in the file of {PREFIX}NATS_CREDS_FILE", "one"
                )
            elif not usable or parts.path or parts.query or parts.fragment:
                self._faults.expected(
                    "NATS_URL", f"tls://host:port or tls://host:port{_HANDSHAKE_FIRST}", repr(url[:80])
                )
        return servers

    def _authority_url(self) -> str | None:
        value = self._get("AUTHORITY_URL").rstrip("/")
        if not value:
            return None
        try:
            parts = urlsplit(value)
            usable = parts.scheme == "https" and is_host(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        except ValueError:
            usable = False
            parts = urlsplit("")
        if not usable or parts.path or parts.query or parts.fragment:
            self._faults.expected("AUTHORITY_URL", "https://host:port", repr(value[:80]))
        return value


def _address(text: str) -> Address:
    parts = urlsplit(f"//{text}")
    if (
        not parts.hostname
        or not is_host(parts.hostname)
        or parts.port is None
        or f"{parts.hostname}:{parts.port}" != text.strip("[").replace("]", "")
    ):
        raise ValueError(text)
    return Address(parts.hostname, parts.port)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _LONGEST_SPLAY:
        raise ValueError(text)
    return seconds
