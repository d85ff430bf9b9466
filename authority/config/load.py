"""The authority's configuration: one TOML file, and secrets from the environment.

Everything is read once, at the start; every fault is reported at once, each with its key, what was expected and what
was found. ``python -m authority check-config`` does just this. The README lists the keys.
"""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from authority.config.injector import InjectorConfig, read_injector
from authority.config.kubernetes import KubernetesConfig, SecretName, read_kubernetes, read_secret_name
from authority.config.listen import ListenAddress, read_listen, read_names
from authority.config.openbao import OpenBaoConfig, read_openbao
from authority.config.toml_table import TomlTable
from authority.config.withdrawal import WithdrawalConfig, read_withdrawal
from authority.election.interface import LEASE_SECONDS
from authority.pki.keystore import KeyType
from authority.pki.names import LONGEST_NAME, canonical_address, is_dns_name, is_ip_address, leaf_faults
from tidemark.bundle import check_trust_domain
from tidemark.epoch import PRESETS, ClockError, EpochClock, Timing, default_leaf_seconds
from tidemark.receipt import PodClass

ENCRYPTION_VARIABLE = "TIDEMARK_KEY_PASSPHRASE"
"""Environment variable with the passphrase that encrypts the keys at rest; without one they are not encrypted."""

ADVERTISE_VARIABLE = "TIDEMARK_ADVERTISE"
"""Environment variable with the host by which other replicas reach this one, such as the pod's address."""

MAX_REPLICAS = 5
"""The most replicas that a JetStream stream can have."""

LONGEST_LEASE = 60
"""Seconds: for so long no replica rotates when the leader is cut off."""


class IssuerKind(StrEnum):
    """The backend of roots, CAs, signing keys and the journal."""

    EMBEDDED = "embedded"
    OPENBAO = "openbao"


class AuthorityConfigError(ValueError):
    """The configuration is not usable; ``faults`` are sentences, one a fault, each beginning with its key."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        super().__init__(f"{source}: " + "; ".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """The table ``[api]``: the HTTPS API."""

    listen: ListenAddress
    names: tuple[str, ...]
    """DNS names and IP addresses in the API's certificate."""
    open_reads: bool
    """Whether requests that read need no token."""
    advertise: str = ""
    """The host by which other replicas reach this one; empty where they use the address of clients."""


@dataclass(frozen=True, slots=True)
class ElectionConfig:
    """The table ``[election]``: a Lease in Kubernetes, elsewhere files in a directory that the replicas share."""

    directory: Path
    lease_seconds: int
    """How long the other replicas wait for a leader that no longer renews."""


@dataclass(frozen=True, slots=True)
class ExpectedAgentConfig:
    """An entry of ``[[agents]]``: an agent that is expected, where the fleet is not the pods of Kubernetes."""

    name: str
    pod_class: PodClass


@dataclass(frozen=True, slots=True)
class JetStreamConfig:
    """The table ``[publish.jetstream]``: the brokers that bundles are published to."""

    servers: tuple[str, ...]
    directory: Path
    """Where the authority keeps its own bundle and leaf for the connection."""
    replicas: int
    """Replicas of the stream."""


@dataclass(frozen=True, slots=True)
class LeafConfig:
    """An entry of ``[[leaves]]``: a workload whose leaf certificate the authority writes."""

    name: str
    """The certificate's common name."""
    place: Path | SecretName
    dns: tuple[str, ...]
    ip: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuthorityConfig:
    """The whole configuration; paths are absolute, or relative to the working directory.

    Sixteen fields, since each is a key or a table at the top of the file.
    """

    trust_domain: str
    state: Path
    """The state directory: keys and journal of the embedded backends, tokens, the API's address."""
    timing: Timing
    include_root: bool
    key_type: KeyType
    api: ApiConfig
    election: ElectionConfig
    withdrawal: WithdrawalConfig
    agents: tuple[ExpectedAgentConfig, ...]
    directories: tuple[Path, ...]
    """Directories that bundles are published to."""
    jetstream: JetStreamConfig | None
    leaves: tuple[LeafConfig, ...]
    passphrase: bytes | None = field(repr=False)
    """Encrypts the keys at rest; None where they are not encrypted."""
    injector: InjectorConfig | None = None
    kubernetes: KubernetesConfig | None = None
    """Set where the authority publishes to Kubernetes, and replicas elect the leader there."""
    openbao: OpenBaoConfig | None = None
    """Set where ``issuer = "openbao"``; None: the embedded issuer, signer and journal in ``state``."""


def load(path: Path, environment: Mapping[str, str]) -> AuthorityConfig:
    """Read the configuration file; raises AuthorityConfigError, also where there is no such file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AuthorityConfigError(str(path), [f"expected a readable TOML file, found {error.strerror}"]) from None
    return parse(data, str(path), path.parent, environment)


def parse(data: bytes, source: str, base: Path, environment: Mapping[str, str]) -> AuthorityConfig:
    """Read a configuration's text; ``source`` names it in errors, relative paths start at ``base``.

    Raises:
        AuthorityConfigError: with every fault that was found.
    """
    try:
        values = tomllib.loads(data.decode())
    except ValueError as error:
        raise AuthorityConfigError(source, [f"expected TOML in UTF-8, found {error}"]) from None
    top = TomlTable(values)
    state = base / top.text("state", "state")
    publish = top.table("publish")
    config = AuthorityConfig(
        trust_domain=_trust_domain(top),
        state=state,
        timing=_timing(top),
        include_root=top.flag("include_root", default=True),
        key_type=top.member("key_type", KeyType, KeyType.EC_P256),
        api=_api(top.table("api"), environment),
        election=_election(top.table("election"), base, state),
        withdrawal=read_withdrawal(top.table("withdrawal")),
        agents=tuple(_agent(table) for table in top.tables("agents")),
        directories=tuple(base / table.text("path") for table in publish.tables("directory")),
        jetstream=_jetstream(publish.table("jetstream"), base) if "jetstream" in publish else None,
        leaves=tuple(_leaf(table, base) for table in top.tables("leaves")),
        passphrase=environment.get(ENCRYPTION_VARIABLE, "").encode() or None,
        injector=read_injector(top.table("injector")) if "injector" in top else None,
        kubernetes=read_kubernetes(top.table("kubernetes"), base, environment) if "kubernetes" in top else None,
        openbao=_issuer(top, base, environment),
    )
    faults = [*top.close(), *_faults_between_tables(config)]
    if faults:
        raise AuthorityConfigError(source, faults)
    return config


def _trust_domain(top: TomlTable) -> str:
    name = top.text("trust_domain")
    if name:
        try:
            check_trust_domain(name)
        except ValueError as error:
            top.fault("trust_domain", str(error))
    return name


def _timing(top: TomlTable) -> Timing:
    """The preset (``production`` where none is named), with the ``[clock]`` table's values in place of its own.

    V defaults to 4·D and L to what ``default_leaf_seconds`` says wherever the table gives another D.
    """
    name = top.text("preset", "production")
    if name not in PRESETS:
        top.fault("preset", f"expected one of {', '.join(PRESETS)}, found {name!r}")
    preset = PRESETS.get(name, PRESETS["production"])
    table = top.table("clock")
    before = len(top.faults)
    epoch = table.integer("epoch_seconds", preset.clock.epoch_seconds)
    validity = table.integer("validity_seconds", 4 * epoch)
    prepare = table.integer("prepare_seconds", preset.clock.prepare_seconds)
    tolerance = table.integer("tolerance_seconds", preset.tolerance_seconds)
    leaf = table.integer("leaf_seconds", None)
    delivery = table.integer("delivery_seconds", preset.delivery_seconds)
    splay = table.integer("splay_seconds", preset.splay_seconds)
    if len(top.faults) > before:  # a clock made of wrong values would report them again
        return preset
    try:
        clock = EpochClock(epoch, validity, prepare)
        return Timing(clock, tolerance, default_leaf_seconds(clock) if leaf is None else leaf, delivery, splay)
    except ClockError as error:
        top.fault("clock", str(error))
        return preset


def _api(table: TomlTable, environment: Mapping[str, str]) -> ApiConfig:
    advertise = table.text("advertise") if "advertise" in table else ""
    advertise = environment.get(ADVERTISE_VARIABLE) or advertise
    if advertise and not is_ip_address(advertise) and not is_dns_name(advertise):
        table.fault("advertise", f"expected one DNS name or IP address without a port, found {advertise!r}")
    return ApiConfig(
        read_listen(table, "127.0.0.1:0"),
        read_names(table, ["localhost", "127.0.0.1"]),
        table.flag("open_reads", default=True),
        advertise,
    )


def _election(table: TomlTable, base: Path, state: Path) -> ElectionConfig:
    lease = table.integer("lease_seconds", LEASE_SECONDS)
    if not 1 <= lease <= LONGEST_LEASE:
        table.fault("lease_seconds", f"expected 1 to {LONGEST_LEASE}, found {lease}")
    return ElectionConfig(base / table.text("directory") if "directory" in table else state / "election", lease)


def _agent(table: TomlTable) -> ExpectedAgentConfig:
    return ExpectedAgentConfig(table.text("name", longest=253), table.member("class", PodClass, PodClass.REQUIRED))


def _jetstream(table: TomlTable, base: Path) -> JetStreamConfig:
    servers = table.texts("servers", [], least=1)
    for url in servers:
        if "@" in url:  # not printed: it may hold a password
            table.fault("servers", "expected URLs without user and password, found one with '@'")
        elif not _is_server(url):
            table.fault("servers", f"expected URLs such as 'tls://127.0.0.1:4222', found {url!r}")
    replicas = table.integer("replicas", 3)
    if not 1 <= replicas <= MAX_REPLICAS:
        table.fault("replicas", f"expected 1 to {MAX_REPLICAS}, found {replicas}")
    return JetStreamConfig(servers, base / table.text("directory", "state/nats"), replicas)


def _leaf(table: TomlTable, base: Path) -> LeafConfig:
    leaf = LeafConfig(
        name=table.text("name", longest=LONGEST_NAME),
        place=_leaf_place(table, base),
        dns=table.texts("dns", []),
        ip=tuple(map(canonical_address, table.texts("ip", []))),
    )
    for key, complaint in leaf_faults(leaf.name, leaf.dns, leaf.ip):
        table.fault(key, complaint)
    return leaf


def _leaf_place(table: TomlTable, base: Path) -> Path | SecretName:
    """The target of a leaf: a directory, or a Secret of Kubernetes."""
    if "secret" not in table:
        return base / table.text("directory")
    if "directory" in table:
        table.fault("directory", "expected a directory or 'secret', found both")
        table.text("directory")
    return read_secret_name(table, "secret")


def _issuer(top: TomlTable, base: Path, environment: Mapping[str, str]) -> OpenBaoConfig | None:
    """The table ``[openbao]``, where OpenBao is the issuer. Otherwise the table is checked, and not used."""
    kind = top.member("issuer", IssuerKind, IssuerKind.EMBEDDED)
    if kind is IssuerKind.EMBEDDED and "openbao" not in top:
        return None
    openbao = read_openbao(top.table("openbao"), base, environment)
    return openbao if kind is IssuerKind.OPENBAO else None


def _faults_between_tables(config: AuthorityConfig) -> list[str]:
    """Faults between tables: values that may occur only once, and tables that need another."""
    jetstream = [config.jetstream.directory] if config.jetstream else []
    places = [leaf.place for leaf in config.leaves]
    once: list[tuple[str, list[str]]] = [
        ("agents: name", [agent.name for agent in config.agents]),
        ("leaves: name", [leaf.name for leaf in config.leaves]),
        ("leaves: directory", [str(path) for path in (*places, *jetstream) if isinstance(path, Path)]),
        ("leaves: secret", [str(secret) for secret in places if isinstance(secret, SecretName)]),
        ("publish.directory: path", [str(path) for path in (*config.directories, *jetstream)]),
    ]
    faults = []
    for what, values in once:
        twice = sorted(value for value, count in Counter(values).items() if count > 1)
        faults += [f"{what}: expected each once, found {value!r} more than once" for value in twice]
    if config.kubernetes is None and any(isinstance(place, SecretName) for place in places):
        faults.append("leaves: secret: expected a [kubernetes] table as well, found none")
    if config.kubernetes is None and config.injector is not None and config.injector.webhook:
        faults.append("injector.webhook: expected a [kubernetes] table as well, found none")
    if config.kubernetes is not None and config.kubernetes.fleet and config.agents:
        faults.append("agents: expected none where kubernetes.fleet says whose pods they are, found some")
    return faults


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("tls", "nats") and bool(parts.hostname)
