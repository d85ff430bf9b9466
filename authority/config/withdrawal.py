"""The table ``[withdrawal]``: when a CA is rolled back automatically, and the servers whose clients are monitored."""

from dataclasses import dataclass
from fractions import Fraction
from urllib.parse import urlsplit

from authority.config.toml_table import TomlTable
from authority.rotation.snapshot import A_THIRD


@dataclass(frozen=True, slots=True)
class WithdrawalConfig:
    """The table's values."""

    rollback_above: Fraction = A_THIRD
    """A CA is rolled back automatically when more than this share of the required agents reverted it."""
    monitors: tuple[str, ...] = ()
    """Monitoring URLs of nats-servers, asked for clients that are connected with a withdrawn CA's certificates."""


def read_withdrawal(table: TomlTable) -> WithdrawalConfig:
    """Read the table; the table collects the faults."""
    monitors = table.texts("monitors", [])
    for url in monitors:
        if "@" in url:  # not printed: it may hold a password
            table.fault("monitors", "expected URLs without user and password, found one with '@'")
        elif not _is_web(url):
            table.fault("monitors", f"expected URLs such as 'http://127.0.0.1:8222', found {url!r}")
    return WithdrawalConfig(_share(table), monitors)


def _share(table: TomlTable) -> Fraction:
    text = table.text("rollback_above", str(A_THIRD), 40)
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if 0 <= share <= 1:
        return share
    table.fault("rollback_above", f"expected a share as text, such as '1/3' ('1': never), found {text!r}")
    return A_THIRD


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
