"""The agent's output directory, as an application reads it: one whole set, or a clear refusal.

The agent switches sets as the kubelet does (https://kubernetes.io/docs/concepts/configuration/secret/): ``ca.crt`` is a
link to ``..data/ca.crt``, and ``..data`` a link to the set's directory, replaced by an atomic rename. So ``..data`` is
resolved once, and every file is read from the directory that it led to.
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
_TRIES = 5  # a set is replaced every few minutes at most: two replacements during one read are not plausible


@dataclass(frozen=True, slots=True)
class InstalledSet:
    """What a connection presents and trusts. Digests are SHA-256 in lower-case hex."""

    ca_sha256: str
    """Of the exact bytes of ``ca.crt``."""
    leaf_sha256: str
    """Of the DER of the first certificate in ``tls.crt``."""
    chain_sha256: str
    """Of the exact bytes of ``tls.crt``."""
    leaf_not_after: int
    """Until when the leaf is valid: Unix seconds, UTC."""
    context: ssl.SSLContext = field(compare=False, repr=False)
    """Ready for a client."""
    anchors: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Of the DER of each CA in ``ca.crt``."""
    withdrawn: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Of the DER of each CA that the bundle's statement calls withdrawn; empty without a statement."""

    def withdraws_from(self, other: "InstalledSet") -> bool:
        """Whether ``other`` trusts a CA that this set calls withdrawn."""
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
    raise SetUnreadable(
        f"{directory}: expected a set that stays long enough to be read, it was replaced {_TRIES} times"
    )


def _generation(directory: Path) -> Path:
    """The set's own directory; a plain directory without ``..data`` is itself the set."""
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
    # A bundle without its root has its intermediates as anchors, which OpenSSL accepts only with this flag.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=b"".join(anchor.public_bytes(Encoding.DER) for anchor in anchors))
        # Python's ssl reads the leaf from files only. These are the files themselves: the key is never copied.
        context.load_cert_chain(generation / "tls.crt", generation / "tls.key", password=_no_password)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(generation / "tls.crt")) from None
    except (ssl.SSLError, OSError) as error:
        raise SetUnreadable(f"{generation}: expected certificates and key that OpenSSL takes, found: {error}") from None
    # ssl has read the files a second time: the digests below must be those of what it read.
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
    """The CAs that the statement, which the agent has verified, calls withdrawn; empty without a statement."""
    try:
        statement, _ = Bundle(b"", path.read_bytes()).unverified_statement()
    except (OSError, StatementError):
        return frozenset()
    return frozenset(statement.withdrawn)


def _bytes(path: Path) -> bytes:
    """A file's bytes. FileNotFoundError passes: ``read_installed`` decides whether the set was replaced meanwhile."""
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
