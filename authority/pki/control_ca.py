"""The control CA: a separate, long-lived CA that signs nothing but the authority's own API certificates.

Agents and operators verify the API against this CA alone (``control_ca`` in the trust file): a stolen intermediate does
not let its thief pass for the API. ``<state>/control/ca`` holds the CA.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from authority.pki import certificates, keystore
from authority.pki.certificates import CaName, LeafNames, Validity
from authority.pki.keystore import CaPair, KeystoreError, KeyType
from authority.pki.lifetimes import BACKDATED_SECONDS, CONTROL_CA_SECONDS
from authority.support import atomic_files
from tidemark.certificates import Certificate, to_pem

CONTROL = "control"


def create_control_ca(state: Path, trust_domain: str, now: int, passphrase: bytes | None) -> Path | None:
    """Make the control CA and return its directory; None where there is one already. Raises KeystoreError."""
    directory = state / CONTROL / "ca"
    atomic_files.make_directory(directory.parent)
    if directory.exists():
        return None
    validity = Validity(now - BACKDATED_SECONDS, now + CONTROL_CA_SECONDS)
    pair = certificates.root(CaName(trust_domain, "control"), KeyType.EC_P256.generate(), validity, path_length=0)
    keystore.create_pair(directory, pair, passphrase)
    return directory


def read_control_ca(state: Path, passphrase: bytes | None) -> CaPair:
    """Read the control CA with its key. Raises KeystoreError."""
    return keystore.read_pair(_existing(state), passphrase)


def read_control_certificate(state: Path) -> Certificate:
    """Read the control CA's certificate alone. Raises KeystoreError."""
    return keystore.read_certificate(_existing(state))


def store_control_certificate(state: Path, certificate: Certificate) -> None:
    """Store the certificate of a control CA whose key is in OpenBao, where ``read_control_certificate`` finds it.

    Raises:
        KeystoreError: it cannot be written.
    """
    path = state / CONTROL / "ca" / keystore.CERTIFICATE_FILE
    try:
        atomic_files.make_directory(path.parent)
        atomic_files.replace_file(path, to_pem([certificate]), atomic_files.SECRET)
    except OSError as error:
        raise KeystoreError(f"{path}: expected to write the control CA's certificate, found {error}") from None


def _existing(state: Path) -> Path:
    directory = state / CONTROL / "ca"
    if not directory.exists():
        raise KeystoreError(f"{directory}: expected the control CA, found none; run 'init' first")
    return directory


class ControlCa(Protocol):
    """The port to the control CA, whose key is in a file or in OpenBao. Repeating ``sign`` is safe."""

    @property
    def certificate(self) -> Certificate:
        """The CA that clients of the API trust."""

    async def sign(self, names: LeafNames, key: ec.EllipticCurvePrivateKey, validity: Validity) -> Certificate:
        """Sign a certificate of the API. Raises KeystoreError."""


@dataclass(frozen=True, slots=True)
class EmbeddedControlCa:
    """The control CA of the state directory."""

    pair: CaPair

    @property
    def certificate(self) -> Certificate:
        """The CA that clients of the API trust."""
        return self.pair.certificate

    async def sign(self, names: LeafNames, key: ec.EllipticCurvePrivateKey, validity: Validity) -> Certificate:
        """Sign a certificate of the API."""
        return certificates.leaf(names, key, validity, self.pair)
