"""The keys ``listen`` and ``names`` of a server's table."""

from dataclasses import dataclass

from authority.config.toml_table import TomlTable
from authority.pki.names import is_dns_name, is_ip_address


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """The address that a server listens on; port 0 takes a free port."""

    host: str
    port: int


def read_listen(table: TomlTable, default: str) -> ListenAddress:
    """The key ``listen``: ``host:port``."""
    text = table.text("listen", default)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        table.fault("listen", f"expected host:port, such as '127.0.0.1:8443', found {text!r}")
        host, port = "127.0.0.1", "0"
    return ListenAddress(host, int(port))


def read_names(table: TomlTable, default: list[str]) -> tuple[str, ...]:
    """The key ``names``: DNS names and IP addresses in the server's certificate."""
    names = table.texts("names", default, least=1)
    for name in names:
        if not is_ip_address(name) and not is_dns_name(name):
            table.fault("names", f"expected DNS names and IP addresses, found {name!r}")
    return names
