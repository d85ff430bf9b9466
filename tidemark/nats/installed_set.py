"""The agent's output directory, as an application reads it: one whole set, or a clear refusal.

The agent switches sets the way the kubelet does: ``ca.crt -> ..data/ca.crt`` and ``..data -> ..<set>``, renamed over
atomically. So ``..data`` is resolved once, and every file is read from the one directory that it led to.
"""

import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from tidemark.bundle import NOTE_FILE, Bundle, StatementError
from tidemark.certificates import LeafRejected, PemError, fingerprint, not_after, parse_certificates, parse_leaf
from tidemark.nats.errors import SetUnreadable

_LARGEST = 512 * 1024  # bytes in a file; the bundle's own limit
_TRIES = 5  # a set is replaced every few minutes at most: being overtaken twice in a row is not plausible


@dataclass(frozen=True, slots=True)
class InstalledSet:
    """What a connection presents and trusts. Digests are lower-case hex; ``context`` is ready for a client."""

    ca_sha256: str
    """Of the exact bytes of ``ca.crt``."""
    leaf_sha256: str
    """Of the DER of the first certificate in ``tls.crt``."""
    chain_sha256: str
    """Of the exact bytes of ``tls.crt``."""
    leaf_not_after: int
    """Until when the leaf is valid: Unix seconds, UTC."""
    context: ssl.SSLContext = field(compare=False, repr=False)
    anchors: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Of the DER of each CA in ``ca.crt``."""
    withdrawn: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Of the DER of each CA that the bundle's statement calls withdrawn; none where there is no statement."""

    def withdraws_from(self, other: "InstalledSet") -> bool:
        """Whether the other one trusts a CA that this one calls withdrawn."""
        return not self.withdrawn.isdisjoint(other.anchors)


def read_installed(directory: Path) -> InstalledSet:
    """Read the set that is installed now.

    Raises:
        SetUnreadable: a file is missing, too large or does not parse, or the key is not the leaf's.
    """
    for _ in range(_TRIES):
        generation = _generation(directory)
        try:
            return _read(generation)
        except FileNotFoundError as error:
            missing = error
        if generation == _generation(directory):
            raise SetUnreadable(f"expected {missing.filename} to exist, found no such file") from None
    raise SetUnreadable(f"{directory}: expected a set that stays long enough to be read, it moved {_TRIES} times")


def _generation(directory: Path) -> Path:
    """The real directory of the set; a plain directory without ``..data`` is its own."""
    link = directory / "..data"
    try:
        return directory / link.readlink()
    except FileNotFoundError:
        return directory
    except OSError as error:
        raise SetUnreadable(f"{link}: expected a symbolic link to a directory, found {error.strerror}") from None


def _read(generation: Path) -> InstalledSet:
    ca, certificate, key = (_bytes(generation / name) for name in ("ca.crt", "tls.crt", "tls.key"))
    try:
        anchors = parse_certificates(ca)
        leaf = parse_leaf(certificate, key)
    except (PemError, LeafRejected) as error:
        where = f"{generation}: ca.crt" if isinstance(error, PemError) else str(generation)
        raise SetUnreadable(f"{where}: {error}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A bundle without its root is anchored in its intermediates; OpenSSL wants to be told that this is enough.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=b"".join(anchor.public_bytes(Encoding.DER) for anchor in anchors))
        # OpenSSL takes the leaf as files only: from where they lie, so that the key is never copied anywhere.
        context.load_cert_chain(generation / "tls.crt", generation / "tls.key", password=_no_password)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(generation / "tls.crt")) from None
    except (ssl.SSLError, OSError) as error:
        raise SetUnreadable(f"{generation}: expected certificates and key that OpenSSL takes, found: {error}") from None
    if (generation / "tls.crt").read_bytes() != certificate:
        raise SetUnreadable(f"{generation}/tls.crt: expected it not to change while it is read, but it did")
    return InstalledSet(
        ca_sha256=hashlib.sha256(ca).hexdigest(),
        leaf_sha256=leaf.sha256,
        chain_sha256=hashlib.sha256(certificate).hexdigest(),
        leaf_not_after=not_after(leaf.certificate),
        context=context,
        anchors=frozenset(map(fingerprint, anchors)),
        withdrawn=_withdrawn(generation / NOTE_FILE),
    )


def _withdrawn(path: Path) -> frozenset[str]:
    """What the statement says; the agent has verified it. A directory that is not an agent's has none."""
    try:
        statement, _ = Bundle(b"", path.read_bytes()).unverified_statement()
    except (OSError, StatementError):
        return frozenset()
    return frozenset(statement.withdrawn)


def _bytes(path: Path) -> bytes:
    """A file's bytes; a missing one raises FileNotFoundError for ``read_installed`` to judge."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SetUnreadable(f"{path}: expected a readable file, found: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise SetUnreadable(f"{path}: expected at most {_LARGEST} bytes, found more")
    return content


def _no_password() -> str:
    """Without this OpenSSL would ask a terminal for the password of an encrypted key, and hang."""
    raise SetUnreadable("tls.key: expected an unencrypted private key, found one with a password")
