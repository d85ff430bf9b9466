"""The certificate of the authority's HTTPS servers, issued by the control CA and renewed while they run."""

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from authority.pki import keystore
from authority.pki.certificates import LeafNames, Validity
from authority.pki.control_ca import ControlCa
from authority.pki.keystore import KeystoreError
from authority.pki.lifetimes import BACKDATED_SECONDS, SERVER_SECONDS
from authority.pki.names import is_ip_address
from tidemark.certificates import Certificate, not_after, to_pem

_LONGEST_SLEEP = 3600.0  # the wall clock may be set while we sleep


class ServerCertificate:
    """The API's certificate in ``context``, an SSL context that serves on while the certificate is renewed.

    Existing connections keep the certificate that they were made with; new connections get the newest.
    """

    def __init__(self, ca: ControlCa, names: Sequence[str], lifetime: int = SERVER_SECONDS) -> None:
        self._ca = ca
        self._names = LeafNames("tidemark authority", *_by_kind(names))
        self._lifetime = lifetime
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        """Asks for no client certificate, as requests carry tokens; makes no tickets, as agents resume no session."""
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
            # OpenSSL takes files only. This file is in memory alone, and lives for this block. Not in a thread: a
            # handshake between the loading of certificate and key would have one without the other.
            with os.fdopen(os.memfd_create("api"), "wb") as file:
                file.write(pem)
                file.flush()
                self.context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        except OSError as error:
            raise KeystoreError(f"API: expected to use its certificate, found {error}") from None

    async def run_renewal(self, clock: Callable[[], float], failed: Callable[[KeystoreError], None]) -> None:
        """Renew at half-life until cancelled; the first certificate is ``renew``'s. A failed renewal is retried."""
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
    """DNS names, then IP addresses."""
    addresses = [name for name in names if is_ip_address(name)]
    return [name for name in names if name not in addresses], addresses
