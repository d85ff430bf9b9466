"""Makes the trust file that agents are configured with."""

import time

from authority.app.backends import open_backends
from authority.config.load import AuthorityConfig
from authority.pki.control_ca import read_control_certificate
from authority.signer.embedded import open_signer
from authority.signer.interface import StatementSigner
from tidemark.certificates import Certificate, to_pem
from tidemark.trust import Trust


async def trust_of(config: AuthorityConfig) -> Trust:
    """The trust file of this authority. Raises KeystoreError, SignerError."""
    if config.openbao is not None:
        async with open_backends(config, time.time) as backends:
            return await trust_by(config, backends.signer, backends.control.certificate)
    signer = open_signer(config.state, config.trust_domain, config.passphrase)
    return await trust_by(config, signer, read_control_certificate(config.state))


async def trust_by(config: AuthorityConfig, signer: StatementSigner, control_ca: Certificate) -> Trust:
    """The trust file for statements of this signer and an API under this control CA. Raises SignerError."""
    pem, tolerance = to_pem([control_ca]).decode(), config.timing.tolerance_seconds
    return Trust(config.trust_domain, await signer.verifiers(), tolerance_seconds=tolerance, control_ca=pem)
