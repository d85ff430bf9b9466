"""The control CA: a separate, long-lived CA that signs nothing but the authority's own API certificates.

So a stolen intermediate opens no door of the control plane: agents and operators verify the API against this CA alone
(``control_ca`` in the trust file). It is kept in ``<state>/control/ca``.
"""

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from authority.pki import certificates, keystore
from authority.pki.certificates import CaName, LeafNames, Validity
from authority.pki.keystore import CaPair, KeystoreError, KeyType
from authority.support import atomic_files
from tidemark.certificates import Certificate, not_after, to_pem

CONTROL = "control"

CA_SECONDS = 20 * 365 * 86400
"""How long the control CA is valid."""

SERVER_SECONDS = 30 * 86400
"""How long a certificate of the API is valid; it is renewed at half of that."""

BACKDATED_SECONDS = 86400
"""How long before their making certificates become valid, for clocks that are behind."""

_LONGEST_SLEEP = 3600.0  # the wall clock may be set while we sleep


def create_control_ca(state: Path, trust_domain: str, now: int, passphrase: bytes | None) -> Path | None:
    """Make the control CA and return where it is kept; None where one stands already. Raises KeystoreError."""
    directory = state / CONTROL / "ca"
    atomic_files.make_directory(directory.parent)
    if directory.exists():
        return None
    validity = Validity(now - BACKDATED_SECONDS, now + CA_SECONDS)
    pair = certificates.root(CaName(trust_domain, "control"), KeyType.EC_P256.generate(), validity, path_length=0)
    keystore.create_pair(directory, pair, passphrase)
    return directory


def read_control_ca(state: Path, passphrase: bytes | None) -> CaPair:
    """Read the control CA with its key. Raises KeystoreError."""
    return keystore.read_pair(_existing(state), passphrase)


def read_control_certificate(state: Path) -> Certificate:
    """Read the control CA's certificate alone. Raises KeystoreError."""
    return keystore.read_certificate(_existing(state))


def keep_control_certificate(state: Path, certificate: Certificate) -> None:
    """Keep the certificate of a control CA whose key is elsewhere, where ``read_control_certificate`` finds it.

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
    """The control CA, wherever its key is kept."""

    @property
    def certificate(self) -> Certificate:
        """What clients of the API trust."""

    async def sign(self, names: LeafNames, key: ec.EllipticCurvePrivateKey, validity: Validity) -> Certificate:
        """Sign a certificate of the API. Raises KeystoreError."""


@dataclass(frozen=True, slots=True)
class EmbeddedControlCa:
    """The control CA of the state directory."""

    pair: CaPair

    @property
    def certificate(self) -> Certificate:
        """What clients of the API trust."""
        return self.pair.certificate

    async def sign(self, names: LeafNames, key: ec.EllipticCurvePrivateKey, validity: Validity) -> Certificate:
        """Sign a certificate of the API."""
        return certificates.leaf(names, key, validity, self.pair)


class ServerCertificate:
    """The API's certificate in ``context``, an SSL context that goes on serving while it is renewed.

    Connections that exist keep the certificate that they were made with; new ones get the newest.
    """

    def __init__(self, ca: ControlCa, names: Sequence[str], lifetime: int = SERVER_SECONDS) -> None:
        self._ca = ca
        self._names = LeafNames("tidemark authority", *_by_kind(names))
        self._lifetime = lifetime
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        """Asks for no client certificate: none would open anything. Agents resume no session: no tickets are made."""
        self.context.num_tickets = 0

    async def renew(self, now: int) -> Certificate:
        """Issue a certificate and serve it from now on. Raises KeystoreError."""
        key = ec.generate_private_key(ec.SECP256R1())
        end = min(now + self._lifetime, not_after(self._ca.certificate))
        if end <= now:
            raise KeystoreError("control CA: expected it to be valid, found it expired; make a new one and trust file")
        certificate = await self._ca.sign(self._names, key, Validity(now - BACKDATED_SECONDS, end))
        self._serve(keystore.key_pem(key, None) + to_pem([certificate, self._ca.certificate]))
        return certificate

    def _serve(self, pem: bytes) -> None:
        try:
            # OpenSSL takes files only. This one is in memory alone, and lives for this block. Not in a thread: a
            # connection that came in between certificate and key would have the one without the other.
            with os.fdopen(os.memfd_create("api"), "wb") as file:
                file.write(pem)
                file.flush()
                self.context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        except OSError as error:
            raise KeystoreError(f"API: expected to use its certificate, found {error}") from None

    async def keep_renewed(self, clock: Callable[[], float], failed: Callable[[KeystoreError], None]) -> None:
        """Renew at half-life, for ever; the first certificate is ``renew``'s. One that fails is tried again."""
        due = clock() + self._lifetime / 2
        while True:
            await asyncio.sleep(min(max(due - clock(), 0.0), _LONGEST_SLEEP))
            if clock() < due:
                continue
            try:
                await self.renew(int(clock()))
            except KeystoreError as error:
                failed(error)
                due = clock() + self._lifetime / 100
            else:
                due = clock() + self._lifetime / 2


def _by_kind(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """DNS names and IP addresses apart."""
    addresses = [name for name in names if certificates.is_ip_address(name)]
    return [name for name in names if name not in addresses], addresses
