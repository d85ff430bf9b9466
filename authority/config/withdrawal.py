"""The table ``[withdrawal]`` of the configuration: when a CA is rolled back unasked, and the servers to look at."""

from dataclasses import dataclass
from fractions import Fraction
from urllib.parse import urlsplit

from authority.config.toml_table import TomlTable
from authority.rotation.snapshot import A_THIRD


@dataclass(frozen=True, slots=True)
class WithdrawalConfig:
    """``rollback_above``: a CA is rolled back unasked where more than this share of the required agents put it back.

    ``monitors`` are monitoring URLs of nats-servers, asked for clients that a withdrawn CA let in.
    """

    rollback_above: Fraction = A_THIRD
    monitors: tuple[str, ...] = ()


def read_withdrawal(table: TomlTable) -> WithdrawalConfig:
    """Read the table; faults are recorded in it."""
    monitors = table.texts("monitors", [])
    for url in monitors:
        if "@" in url:  # never shown: it may hold a password
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
