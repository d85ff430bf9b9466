"""The table ``[injector]``: the webhook's server, and the settings that all sidecars share."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from authority.config.listen import ListenAddress, read_listen, read_names
from authority.config.toml_table import TomlTable
from authority.injector.annotations import LARGEST_UID
from authority.injector.sidecar import SidecarSettings

DEFAULT_NAMES = ["tidemark-injector.tidemark.svc"]

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|Ki|Mi|Gi)?")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True, slots=True)
class InjectorConfig:
    """The table's values."""

    listen: ListenAddress
    names: tuple[str, ...]
    """DNS names and IP addresses in the webhook's certificate."""
    sidecar: SidecarSettings
    webhook: str | None
    """The MutatingWebhookConfiguration whose ``caBundle`` the authority sets; None where it sets none."""


def read_injector(table: TomlTable) -> InjectorConfig:
    """Read the table; the table collects the faults."""
    return InjectorConfig(
        listen=read_listen(table, "0.0.0.0:9443"),
        names=read_names(table, DEFAULT_NAMES),
        sidecar=_sidecar(table),
        webhook=table.text("webhook", longest=253) if "webhook" in table else None,
    )


def _sidecar(table: TomlTable) -> SidecarSettings:
    settings = SidecarSettings(
        image=table.text("image"),
        pull_policy=_optional(table, "pull_policy"),
        authority_url=_optional(table, "authority_url").rstrip("/"),
        audience=table.text("audience", "tidemark-authority"),
        nats_url=_optional(table, "nats_url"),
        bundle_secret=table.text("bundle_secret", "nats-ca-tls", 253),
        trust_config_map=table.text("trust_config_map", "tidemark-trust", 253),
        directory=table.text("directory", "/run/tidemark"),
        uid=table.integer("uid", 65532),
        cpu=table.text("cpu", "5m"),
        cpu_limit=_optional(table, "cpu_limit"),
        memory=table.text("memory", "64Mi"),
        memory_limit=table.text("memory_limit", "96Mi"),
    )
    if settings.pull_policy not in ("", *_PULL_POLICIES):
        table.fault("pull_policy", f"expected one of {', '.join(_PULL_POLICIES)}, found {settings.pull_policy!r}")
    if settings.authority_url and not _is_authority(settings.authority_url):
        table.fault("authority_url", f"expected https://host:port, found {settings.authority_url!r}")
    if settings.nats_url and ("@" in settings.nats_url or not settings.nats_url.startswith("tls://")):
        table.fault("nats_url", "expected tls://host:port without a login, found another form")
    if not settings.directory.startswith("/"):
        table.fault("directory", f"expected an absolute path, found {settings.directory!r}")
    if not 1 <= settings.uid <= LARGEST_UID:
        table.fault("uid", f"expected 1 to {LARGEST_UID}, found {settings.uid}")
    for key in ("cpu", "cpu_limit", "memory", "memory_limit"):
        value: str = getattr(settings, key)
        if value and not _QUANTITY.fullmatch(value):
            table.fault(key, f"expected a quantity such as 5m or 64Mi, found {value!r}")
    return settings


def _optional(table: TomlTable, key: str) -> str:
    return table.text(key) if key in table else ""


def _is_authority(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and "@" not in url and not parts.path + parts.query
    except ValueError:
        return False
