"""Making what an authority is: root, signing key, control CA and tokens, under its state directory.

May be repeated: what stands is kept as it is, what is missing is made.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.x509 import NameOID

from authority.api.tokens import TOKENS, TokenRole, create_token
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
    """One thing that ``init`` takes care of; ``made`` is False where it stood already."""

    name: str
    path: Path | str
    made: bool


def initialise(config: AuthorityConfig, now: int) -> list[ProvisionedPart]:
    """Make what is missing, and say what was made and what stood already.

    Raises:
        KeystoreError: something could not be made, or what stands there is another trust domain's.
    """
    state, domain, passphrase = config.state, config.trust_domain, config.passphrase
    try:
        atomic_files.make_directory(state)
        tokens = [(f"{role} token", state / TOKENS / role, create_token(state, role)) for role in TokenRole]
        if config.openbao is not None:  # there, everything else is kept in OpenBao
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
    """Make what is missing in OpenBao, with the operator's token. Raises KeystoreError."""
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
    """A state directory belongs to one trust domain for ever."""
    certificate = keystore.read_certificate(root)
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    if found != config.trust_domain:
        raise KeystoreError(
            f"{config.state}: expected the state of trust domain {config.trust_domain!r}, found that of {found!r}; "
            f"give each trust domain a state directory of its own"
        )
