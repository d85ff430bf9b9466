"""The table ``[openbao]``: the server, the login, and the mounts and names there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from authority.config.toml_table import TomlTable
from authority.openbao.layout import OpenBaoLayout
from authority.openbao.login import AppRoleLogin, KubernetesLogin, Login, OpenBaoAccess, TokenLogin

SECRET_ID_VARIABLE = "TIDEMARK_OPENBAO_SECRET_ID"  # noqa: S105 - the name of the variable, not its value
"""Environment variable with the secret id of the AppRole login."""

TOKEN_VARIABLE = "TIDEMARK_OPENBAO_TOKEN"  # noqa: S105 - the name of the variable, not its value
"""Environment variable with a token of OpenBao: the operator's for ``init --openbao``, or ours where auth = "token"."""

SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path

_PATH = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")

_LAYOUT_KEYS = {
    "root": "root_mount",
    "intermediate": "intermediate_mount",
    "control": "control_mount",
    "transit": "transit_mount",
    "kv": "kv_mount",
    "prefix": "kv_prefix",
    "role": "pki_role",
    "key": "transit_key",
}


class OpenBaoAuth(StrEnum):
    """The auth method by which the authority logs in to OpenBao."""

    APPROLE = "approle"
    KUBERNETES = "kubernetes"
    TOKEN = "token"  # noqa: S105 - a word of the configuration


@dataclass(frozen=True, slots=True)
class OpenBaoConfig:
    """The table's values."""

    access: OpenBaoAccess
    layout: OpenBaoLayout
    operator: TokenLogin
    """The login of ``init --openbao``."""


def read_openbao(table: TomlTable, base: Path, environment: Mapping[str, str]) -> OpenBaoConfig:
    """Read the table; the table collects the faults. Relative paths start at ``base``."""
    access = OpenBaoAccess(
        url=_url(table),
        login=_login(table, base, environment),
        namespace=table.text("namespace") if "namespace" in table else "",
        ca_file=base / table.text("ca_file") if "ca_file" in table else None,
    )
    return OpenBaoConfig(access, _layout(table), TokenLogin(environment.get(TOKEN_VARIABLE, "")))


def _layout(table: TomlTable) -> OpenBaoLayout:
    defaults = OpenBaoLayout()
    layout = OpenBaoLayout(
        **{name: table.text(key, getattr(defaults, name), 128) for name, key in _LAYOUT_KEYS.items()}
    )
    for name, key in _LAYOUT_KEYS.items():
        if not _PATH.fullmatch(getattr(layout, name)):
            table.fault(
                key, f"expected letters, digits, '-', '_' and '/' between them, found {getattr(layout, name)!r}"
            )
    mounts = [layout.root, layout.intermediate, layout.control]
    if len(set(mounts)) < len(mounts):
        table.fault("root_mount", f"expected three different mounts of CAs, found {', '.join(mounts)}")
    return layout


def _url(table: TomlTable) -> str:
    url = table.text("url")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if url and "@" in url:  # not printed: it may hold a password
        table.fault("url", "expected a URL without user and password, found one with '@'")
    elif url and (parts.scheme not in ("https", "http") or not parts.hostname):
        table.fault("url", f"expected a URL such as 'https://openbao.example.com:8200', found {url!r}")
    elif parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        table.fault("url", f"expected https for another machine, since tokens travel on it, found {url!r}")
    return url


def _login(table: TomlTable, base: Path, environment: Mapping[str, str]) -> Login:
    auth = table.member("auth", OpenBaoAuth, OpenBaoAuth.APPROLE)
    if auth is OpenBaoAuth.TOKEN:
        return TokenLogin(environment.get(TOKEN_VARIABLE, ""))
    mount = table.text("auth_mount", auth.value, 128)
    if auth is OpenBaoAuth.KUBERNETES:
        return KubernetesLogin(table.text("role"), base / table.text("jwt_file", SERVICE_ACCOUNT_TOKEN), mount)
    return AppRoleLogin(table.text("role_id"), environment.get(SECRET_ID_VARIABLE, ""), mount)
