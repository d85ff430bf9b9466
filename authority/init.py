"""Making what an authority is: root, signing key, control CA and tokens, under its state directory.

May be repeated: what stands is kept as it is, what is missing is made.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.x509 import NameOID

from authority import durable, keystore
from authority.config import AuthorityConfig
from authority.control import create_control_ca, read_control_certificate
from authority.issuer.embedded import ROOTS, create_root
from authority.keystore import KeystoreError
from authority.signer.embedded import KEYS, create_key, open_signer
from authority.tokens import TOKENS, Role, create_token
from tidemark.certificates import to_pem
from tidemark.trust import Trust


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that ``init`` takes care of; ``made`` is False where it stood already."""

    name: str
    path: Path
    made: bool


def initialise(config: AuthorityConfig, now: int) -> list[Part]:
    """Make what is missing, and say what was made and what stood already.

    Raises:
        KeystoreError: something could not be made, or what stands there is another trust domain's.
    """
    state, domain, passphrase = config.state, config.trust_domain, config.passphrase
    try:
        durable.make_directory(state)
        root = state / ROOTS / "1"
        if root.exists():
            _check_domain(root, config)
        made: list[tuple[str, Path, Path | None]] = [
            ("root CA", root, create_root(state, domain, config.key_type, now, passphrase)),
            ("control CA", state / "control" / "ca", create_control_ca(state, domain, now, passphrase)),
            ("signing key", state / KEYS, create_key(state, passphrase)),
            *((f"{role} token", state / TOKENS / role, create_token(state, role)) for role in Role),
        ]
    except OSError as error:
        raise KeystoreError(f"{state}: expected to write the authority's state there, found {error}") from None
    return [Part(name, fresh or path, made=fresh is not None) for name, path, fresh in made]


def _check_domain(root: Path, config: AuthorityConfig) -> None:
    """A state directory belongs to one trust domain for ever."""
    certificate = keystore.read_certificate(root)
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    if found != config.trust_domain:
        raise KeystoreError(
            f"{config.state}: expected the state of trust domain {config.trust_domain!r}, found that of {found!r}; "
            f"give each trust domain a state directory of its own"
        )


async def trust_of(config: AuthorityConfig) -> Trust:
    """Whom agents of this authority are to believe. Raises KeystoreError, SignerError."""
    control_ca = to_pem([read_control_certificate(config.state)]).decode()
    signer = open_signer(config.state, config.trust_domain, config.passphrase)
    tolerance = config.timing.tolerance_seconds
    return Trust(config.trust_domain, await signer.verifiers(), tolerance_seconds=tolerance, control_ca=control_ca)
