"""By which names a leaf certificate may go, whether the configuration or an operator asks for it; pure."""

import ipaddress
from collections.abc import Iterator, Sequence

from authority.config.listen import is_dns_name
from authority.pki.certificates import is_ip_address

OWN_LEAF = "tidemark-authority"
"""The name that the authority's own leaf goes by."""

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
    for one in dns:
        if one.lower() == OWN_LEAF:
            yield "dns", f"expected other names than the authority's own, found {OWN_LEAF!r}"
        if not is_dns_name(one):
            yield "dns", f"expected DNS names, found {one!r}"
    for address in ip:
        if not is_ip_address(address):
            yield "ip", f"expected IP addresses, found {address!r}"


def usual_form(address: str) -> str:
    """An IP address as programs write it, so that it compares equal to what a certificate says."""
    return str(ipaddress.ip_address(address)) if is_ip_address(address) else address
