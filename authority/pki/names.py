"""The names that a leaf certificate may have, whether the configuration or an operator asks for it; pure."""

import ipaddress
import re
from collections.abc import Iterator, Sequence

OWN_LEAF = "tidemark-authority"
"""The common name of the authority's own leaf."""

LONGEST_NAME = 64
"""Characters: X.509's limit for a common name."""


def leaf_faults(name: str, dns: Sequence[str], ip: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a leaf's common name (its length aside) and with the names that peers check.

    Pairs of ``name``, ``dns`` or ``ip`` and a complaint.
    """
    if name.lower() == OWN_LEAF:
        yield "name", f"expected another name than the authority's own, found {OWN_LEAF!r}"
    if not name.isprintable():
        yield "name", f"expected characters that print, found {name!r}"
    if not dns and not ip:
        yield "dns", "expected a DNS name here or an address in 'ip', found neither"
    for each in dns:
        if each.lower() == OWN_LEAF:
            yield "dns", f"expected other names than the authority's own, found {OWN_LEAF!r}"
        if not is_dns_name(each):
            yield "dns", f"expected DNS names, found {each!r}"
    for address in ip:
        if not is_ip_address(address):
            yield "ip", f"expected IP addresses, found {address!r}"


def canonical_address(address: str) -> str:
    """An IP address in the form of a certificate's, so that the two compare equal; any other text as it is."""
    return str(ipaddress.ip_address(address)) if is_ip_address(address) else address


_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"

_DNS_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


def is_dns_name(text: str) -> bool:
    """Whether this is a DNS name, perhaps with a ``*`` in front, and no IP address."""
    return len(text) <= 253 and _DNS_NAME.fullmatch(text) is not None and not is_ip_address(text)


def is_ip_address(text: str) -> bool:
    """Whether a certificate carries this name as an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
