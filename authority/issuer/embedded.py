"""The embedded issuer: roots and CAs with their keys in 0600 files, for the replicas of one machine.

``<state>/roots/<number>/`` holds the roots, the highest number the newest, and ``<state>/issuer/<name>/`` the CAs:
each as ``ca.crt`` and ``ca.key`` in a directory that appears and goes as a whole.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from authority.issuer.interface import (
    CaRequest,
    IssuedLeaf,
    IssuerError,
    IssuerHoldings,
    LeafRequest,
    check_ca_id,
    is_ca_id,
)
from authority.pki import certificates, keystore
from authority.pki.certificates import CaName, LeafNames, Validity
from authority.pki.keystore import KEY_FILE, CaPair, KeystoreError, KeyType
from authority.pki.lifetimes import BACKDATED_SECONDS, ROOT_SECONDS
from authority.support import atomic_files
from tidemark.certificates import Certificate, fingerprint, not_after, to_pem
from tidemark.strict_json import format_instant

ROOTS = "roots"

CAS = "issuer"


def create_root(state: Path, trust_domain: str, key_type: KeyType, now: int, passphrase: bytes | None) -> Path | None:
    """Make the first root and return its directory; None where there is a root already. Raises KeystoreError."""
    directory = state / ROOTS / "1"
    atomic_files.make_directory(directory.parent)
    atomic_files.make_directory(state / CAS)
    if _numbered(directory.parent):
        return None
    validity = Validity(now - BACKDATED_SECONDS, now + ROOT_SECONDS)
    pair = certificates.root(CaName(trust_domain, "root"), key_type.generate(), validity, path_length=1)
    keystore.create_pair(directory, pair, passphrase)
    return directory


class EmbeddedIssuer:
    """Implements ``Issuer``; of several processes on one state directory only the leader may call it.

    Where two processes lead for a moment, both get the one CA that was made under a name.
    """

    def __init__(self, state: Path, key_type: KeyType, passphrase: bytes | None) -> None:
        self._roots = state / ROOTS
        self._cas = state / CAS
        self._key_type = key_type
        self._passphrase = passphrase

    async def roots(self) -> tuple[Certificate, ...]:
        """The roots above the CAs, newest first."""
        return tuple(pair.certificate for pair in await asyncio.to_thread(self._read_roots))

    async def issue_ca(self, request: CaRequest) -> Certificate:
        """Make the CA, or return the one already made under this name if it is what is asked for now."""
        return await asyncio.to_thread(self._issue_ca, request)

    async def activate(self, ca_id: str) -> None:
        """Check that the CA exists; nothing else, as this issuer signs for the authority alone."""
        await asyncio.to_thread(self._existing, ca_id)

    async def issue_leaf(self, ca_id: str, request: LeafRequest) -> IssuedLeaf:
        """Sign a leaf with the CA of this name."""
        return await asyncio.to_thread(self._issue_leaf, ca_id, request)

    async def holdings(self) -> IssuerHoldings:
        """What is there now."""
        return IssuerHoldings(await asyncio.to_thread(self._held))

    async def delete(self, ca_ids: Sequence[str]) -> None:
        """Delete CAs and their keys."""
        for ca_id in ca_ids:
            await asyncio.to_thread(self._delete, ca_id)

    def _read_roots(self) -> list[CaPair]:
        numbers = _numbered(self._roots)
        if not numbers:
            raise IssuerError(f"{self._roots}: expected a root, found none; run 'init' first")
        return [self._read(self._roots / str(number)) for number in sorted(numbers, reverse=True)]

    def _issue_ca(self, request: CaRequest) -> Certificate:
        directory = self._directory(request.ca_id)
        made = self._read(directory) if directory.exists() else None
        if made and request.is_met_by(made.certificate):
            return made.certificate
        above = self._read_roots()[0]
        if request.not_after > not_after(above.certificate):
            end = format_instant(not_after(above.certificate))
            raise IssuerError(
                f"CA {request.ca_id}: expected it to end by {end}, as its root does, "
                f"found {format_instant(request.not_after)}; a new root is due"
            )
        name = CaName(request.trust_domain, request.common_name)
        validity = Validity(request.not_before, request.not_after)
        pair = certificates.intermediate(name, self._key_type.generate(), validity, above)
        if made:
            self._delete(request.ca_id)
        try:
            keystore.create_pair(directory, pair, self._passphrase)
        except KeystoreError as error:
            if directory.exists() and request.is_met_by(other := self._read(directory).certificate):
                # Two leaders for a moment: the other one made it.
                return other
            raise IssuerError(str(error)) from None
        return pair.certificate

    def _issue_leaf(self, ca_id: str, request: LeafRequest) -> IssuedLeaf:
        above = self._existing(ca_id)
        if request.not_after > not_after(above.certificate):
            raise IssuerError(
                f"leaf {request.common_name}: expected it to end by {format_instant(not_after(above.certificate))}, "
                f"as its CA {ca_id} does, found {format_instant(request.not_after)}"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        names = LeafNames(request.common_name, request.dns_names, request.ip_addresses)
        try:
            certificate = certificates.leaf(names, key, Validity(request.not_before, request.not_after), above)
        except ValueError as error:
            raise IssuerError(f"leaf {request.common_name}: expected names for a certificate, found {error}") from None
        return IssuedLeaf(to_pem([certificate, above.certificate]), keystore.key_pem(key, None))

    def _held(self) -> dict[str, str]:
        try:
            atomic_files.sweep(self._cas)
            return {path.name: _fingerprint(path) for path in self._cas.iterdir() if is_ca_id(path.name)}
        except OSError as error:
            raise IssuerError(f"{self._cas}: expected a readable directory, found {error.strerror}") from None

    def _delete(self, ca_id: str) -> None:
        directory = self._directory(ca_id)
        try:
            atomic_files.remove_directory(directory)
        except OSError as error:
            raise IssuerError(f"{directory}: expected to remove it, found {error.strerror}") from None

    def _existing(self, ca_id: str) -> CaPair:
        directory = self._directory(ca_id)
        if not directory.exists():
            raise IssuerError(f"{directory}: expected the CA {ca_id}, found none")
        return self._read(directory)

    def _read(self, directory: Path) -> CaPair:
        try:
            return keystore.read_pair(directory, self._passphrase)
        except KeystoreError as error:
            raise IssuerError(str(error)) from None

    def _directory(self, ca_id: str) -> Path:
        return self._cas / check_ca_id(ca_id)


def _fingerprint(directory: Path) -> str:
    """The fingerprint of the CA in the directory; "" where it has no key. The key is not opened."""
    try:
        return fingerprint(keystore.read_certificate(directory)) if (directory / KEY_FILE).is_file() else ""
    except KeystoreError:
        return ""


def _numbered(roots: Path) -> list[int]:
    return [int(path.name) for path in roots.iterdir() if path.name.isdecimal()] if roots.exists() else []
