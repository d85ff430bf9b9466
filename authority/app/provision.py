"""``init``: makes root CA, signing key, control CA and tokens in the state directory, or in OpenBao.

``init`` may be repeated: it makes what is missing, and leaves alone what exists.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.x509 import NameOID

from authority.api.token_files import TOKENS, create_token
from authority.api.tokens import TokenRole
from authority.config.load import AuthorityConfig
from authority.issuer.embedded import ROOTS, create_root
from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoError
from authority.openbao.setup import SetupRequest, set_up
from authority.pki import keystore
from authority.pki.control_ca import create_control_ca
from authority.pki.keystore import KeystoreError
from authority.signer.embedded import KEYS, create_key
from authority.support import atomic_files


@dataclass(frozen=True, slots=True)
class ProvisionedPart:
    """One thing that ``init`` makes."""

    name: str
    path: Path | str
    """The file, or the path in OpenBao."""
    made: bool
    """False where it existed already."""


def initialise(config: AuthorityConfig, now: int) -> list[ProvisionedPart]:
    """Make what is missing in the state directory; return every part, made or not.

    Raises:
        KeystoreError: a part could not be made, or the state directory belongs to another trust domain.
    """
    state, domain, passphrase = config.state, config.trust_domain, config.passphrase
    try:
        atomic_files.make_directory(state)
        tokens = [(f"{role} token", state / TOKENS / role, create_token(state, role)) for role in TokenRole]
        if config.openbao is not None:  # OpenBao keeps everything else
            return [ProvisionedPart(name, path, made=fresh is not None) for name, path, fresh in tokens]
        root = state / ROOTS / "1"
        if root.exists():
            _check_domain(root, config)
        made: list[tuple[str, Path, Path | None]] = [
            ("root CA", root, create_root(state, domain, config.key_type, now, passphrase)),
            ("control CA", state / "control" / "ca", create_control_ca(state, domain, now, passphrase)),
            ("signing key", state / KEYS, create_key(state, passphrase)),
            *tokens,
        ]
    except OSError as error:
        raise KeystoreError(f"{state}: expected to write the authority's state there, found {error}") from None
    return [ProvisionedPart(name, fresh or path, made=fresh is not None) for name, path, fresh in made]


async def initialise_openbao(config: AuthorityConfig, now: int) -> list[ProvisionedPart]:
    """Make what is missing in OpenBao, with the operator's token; return every part. Raises KeystoreError."""
    if config.openbao is None:
        raise KeystoreError("issuer: expected 'openbao' in the configuration, found 'embedded'")
    access = replace(config.openbao.access, login=config.openbao.operator)
    wanted = SetupRequest(config.trust_domain, config.key_type, config.timing.tolerance_seconds)
    try:
        async with OpenBaoClient(access) as client:
            made = await set_up(client, config.openbao.layout, wanted, now)
    except OpenBaoError as error:
        raise KeystoreError(str(error)) from None
    return [ProvisionedPart(one.name, one.path, one.made) for one in made]


def _check_domain(root: Path, config: AuthorityConfig) -> None:
    """A state directory belongs to one trust domain for good."""
    certificate = keystore.read_certificate(root)
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    if found != config.trust_domain:
        raise KeystoreError(
            f"{config.state}: expected the state of trust domain {config.trust_domain!r}, found that of {found!r}; "
            f"give each trust domain a state directory of its own"
        )
