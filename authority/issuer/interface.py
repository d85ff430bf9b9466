"""The port that makes CAs and signs leaves: embedded (files) or OpenBao."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.x509 import NameOID

from authority.errors import StateUnusable
from tidemark.certificates import Certificate, not_after

_INTENT = re.compile(r"epoch-[0-9]{1,16}-[0-9]{1,16}")


class IssuerError(StateUnusable):
    """The issuer could not carry a request out; the message names the CA or path, and what to do. A retry is safe."""


@dataclass(frozen=True, slots=True)
class CaRequest:
    """A CA to be made; instants are Unix seconds."""

    ca_id: str
    """The CA's name for ever: ``epoch-<N>-<sequence>``."""
    trust_domain: str
    epoch: int
    not_before: int
    not_after: int

    @property
    def common_name(self) -> str:
        """The CN of its subject."""
        return f"intermediate epoch {self.epoch}"

    def is_met_by(self, certificate: Certificate) -> bool:
        """Whether domain, epoch and NotAfter agree. NotBefore does not count: it says when the CA was first made."""
        values = {attribute.oid: attribute.value for attribute in certificate.subject}
        found = (values.get(NameOID.ORGANIZATION_NAME), values.get(NameOID.COMMON_NAME), not_after(certificate))
        return found == (self.trust_domain, self.common_name, self.not_after)


@dataclass(frozen=True, slots=True)
class LeafRequest:
    """A leaf certificate to be made: for server and client use, with a key of its own. Instants are Unix seconds."""

    common_name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class IssuedLeaf:
    """A leaf certificate with its key."""

    certificate_pem: bytes
    """For ``tls.crt``: the leaf, then the CA that signed it."""
    key_pem: bytes = field(repr=False)
    """For ``tls.key``: PKCS#8, unencrypted."""


@dataclass(frozen=True, slots=True)
class IssuerHoldings:
    """What an issuer holds."""

    cas: Mapping[str, str]
    """Name of every CA that exists, be it in part -> its certificate's fingerprint, "" where the CA cannot sign."""
    active: str | None = None
    """Name of the CA that signs for others: "" where that CA is not ours, None where the issuer signs for the
    authority alone."""


def is_ca_id(name: str) -> bool:
    """Whether a CA of ours can have this name, which becomes part of paths.

    A CA with another name belongs to another program: in OpenBao the mount may have been in use before, and is not
    cleared.
    """
    return _INTENT.fullmatch(name) is not None


def check_ca_id(name: str) -> str:
    """Return the name. Raises IssuerError where no CA can have it."""
    if not is_ca_id(name):
        raise IssuerError(f"CA name {name[:100]!r}: expected epoch-<epoch>-<sequence>")
    return name


class Issuer(Protocol):
    """Makes, uses and deletes CAs; their keys never leave the issuer.

    Every method may be repeated: after a crash the caller calls again with the same name. A CA that a method returned
    is durable. Callers serialise their calls; only controllers call. Errors are IssuerError, and the caller retries
    with back-off.
    """

    async def roots(self) -> tuple[Certificate, ...]:
        """The roots above the CAs, newest first."""

    async def issue_ca(self, request: CaRequest) -> Certificate:
        """Make the CA, or return the one already made under this name if it is what is asked for now.

        A CA that was made under this name with another epoch or NotAfter (a clock changed between a crash and the
        restart) was never published: it is deleted and made again.
        """

    async def activate(self, ca_id: str) -> None:
        """Make this CA the one that signs leaves for others (OpenBao: the default issuer)."""

    async def issue_leaf(self, ca_id: str, request: LeafRequest) -> IssuedLeaf:
        """Sign a leaf with the CA of this name; NotAfter beyond the CA's own is an error."""

    async def holdings(self) -> IssuerHoldings:
        """What is there now, published or not."""

    async def delete(self, ca_ids: Sequence[str]) -> None:
        """Delete CAs and their keys; a CA that is gone already is no error."""
