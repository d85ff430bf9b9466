"""Where certificate authorities live: the interface that the embedded issuer and OpenBao stand behind."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.x509 import NameOID

from authority.errors import StateUnusable
from tidemark.certificates import Certificate, not_after

_INTENT = re.compile(r"epoch-[0-9]{1,16}-[0-9]{1,16}")


class IssuerError(StateUnusable):
    """The issuer could not do what it was asked; the message names the thing, and what to do. Trying again is safe."""


@dataclass(frozen=True, slots=True)
class CaRequest:
    """A CA to be made. ``intent`` is its name for ever: ``epoch-<N>-<sequence>``; instants are Unix seconds."""

    intent: str
    trust_domain: str
    epoch: int
    not_before: int
    not_after: int

    @property
    def common_name(self) -> str:
        """The CN of its subject."""
        return f"intermediate epoch {self.epoch}"

    def is_met_by(self, certificate: Certificate) -> bool:
        """Whether domain, epoch and NotAfter agree; NotBefore is when it was first made."""
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
    """What goes into ``tls.crt`` (leaf, then the CA that signed it) and ``tls.key`` (PKCS#8, unencrypted)."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class IssuerHoldings:
    """What an issuer holds.

    ``cas`` has the intent of every CA that exists, be it in part, with its certificate's fingerprint: "" where it
    cannot sign. ``active`` is the intent of the one that signs for others, "" where that is none of ours, and None
    where the issuer signs for nobody but the authority.
    """

    cas: Mapping[str, str]
    active: str | None = None


def is_intent(name: str) -> bool:
    """Whether a CA of ours can have this name, which becomes part of paths.

    What has another name is somebody else's: in OpenBao the mount may have been in use before, and is not cleared.
    """
    return _INTENT.fullmatch(name) is not None


def check_intent(name: str) -> str:
    """Return the name. Raises IssuerError for one that no CA can have."""
    if not is_intent(name):
        raise IssuerError(f"intent {name[:100]!r}: expected epoch-<epoch>-<sequence>")
    return name


class Issuer(Protocol):
    """Makes, uses and deletes CAs; their keys never leave it.

    Every method may be repeated: after a crash the caller asks again with the same intent. A CA that a method returned
    is durable. Callers serialise their calls; nobody but the sequencers calls. Errors are IssuerError, and the caller
    retries with backoff.
    """

    async def roots(self) -> tuple[Certificate, ...]:
        """The roots above the CAs, newest first."""

    async def issue_ca(self, request: CaRequest) -> Certificate:
        """Make the CA, or return the one already made for this intent if it is what is asked for now.

        One that was made for this intent with another epoch or NotAfter (a clock changed between a crash and the
        restart) was never published: it is deleted and made anew.
        """

    async def activate(self, intent: str) -> None:
        """Make this CA the one that signs leaves for others (OpenBao: the default issuer)."""

    async def issue_leaf(self, intent: str, request: LeafRequest) -> IssuedLeaf:
        """Sign a leaf with the CA of this intent; NotAfter beyond the CA's own is an error."""

    async def holdings(self) -> IssuerHoldings:
        """What is there now, published or not."""

    async def delete(self, intents: Sequence[str]) -> None:
        """Delete CAs and their keys; one that is gone already is no error."""
