"""Opens the configured storage backends of roots, CAs, statement keys, control CA and journal: files, or OpenBao."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from authority.config.load import AuthorityConfig
from authority.config.openbao import OpenBaoConfig
from authority.issuer.embedded import EmbeddedIssuer
from authority.issuer.interface import Issuer
from authority.issuer.openbao import OpenBaoIssuer
from authority.journal.directory import DirectoryJournal
from authority.journal.interface import Journal
from authority.journal.openbao import OpenBaoJournal
from authority.openbao.client import OpenBaoClient
from authority.openbao.control_ca import open_control_ca
from authority.openbao.errors import OpenBaoError, OpenBaoUnreachable
from authority.openbao.login import OpenBaoAccess
from authority.pki.control_ca import ControlCa, EmbeddedControlCa, read_control_ca, store_control_certificate
from authority.pki.keystore import KeystoreError
from authority.signer.embedded import open_signer
from authority.signer.interface import StatementSigner
from authority.signer.openbao import open_transit_signer
from authority.support import atomic_files
from authority.support.backoff import Backoff
from authority.support.clock_skew import ReferenceClock

JOURNAL = "journal"

_LONGEST_WAIT = 10.0  # seconds between two tries to reach OpenBao


@dataclass(frozen=True, slots=True)
class Backends:
    """The implementations that the configuration chooses."""

    control: ControlCa
    issuer: Issuer
    signer: StatementSigner
    journal: Journal
    references: Mapping[str, ReferenceClock] = field(default_factory=dict)
    """Clocks of other systems, by name, that the authority's own clock has to agree with."""


@asynccontextmanager
async def open_backends(config: AuthorityConfig, clock: Callable[[], float]) -> AsyncIterator[Backends]:
    """Open the backends for as long as the context lasts.

    Raises:
        KeystoreError, SignerError: the state is not what ``init`` makes, or OpenBao refuses the login.
    """
    if config.openbao is None:
        yield _embedded(config)
        return
    try:
        client = OpenBaoClient(config.openbao.access)
    except OpenBaoError as error:
        raise KeystoreError(str(error)) from None
    async with client:
        yield await _in_openbao(config, config.openbao, client, clock)


async def wait_for_openbao(
    access: OpenBaoAccess, stop: asyncio.Event, failed: Callable[[OpenBaoError, float], None]
) -> None:
    """Return once OpenBao is reachable and unsealed, or ``stop`` is set.

    An authority that starts while OpenBao is sealed or not up yet waits for it. ``failed`` gets each failure and the
    seconds until the next try. Raises KeystoreError where OpenBao refuses the login.
    """
    asking = asyncio.ensure_future(_ask_until_reachable(access, Backoff[str](_LONGEST_WAIT), failed))
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({asking, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            asking.result()
    except OpenBaoError as error:
        raise KeystoreError(str(error)) from None
    finally:
        asking.cancel()
        stopped.cancel()
        await asyncio.gather(asking, stopped, return_exceptions=True)


async def _ask_until_reachable(
    access: OpenBaoAccess, backoff: Backoff[str], failed: Callable[[OpenBaoError, float], None]
) -> None:
    async with OpenBaoClient(access, pauses=()) as client:
        while True:
            try:
                await client.read("auth/token/lookup-self")
            except OpenBaoUnreachable as error:
                seconds = backoff.failed(access.url)
                failed(error, seconds)
                await asyncio.sleep(seconds)
            else:
                return


def _embedded(config: AuthorityConfig) -> Backends:
    control = EmbeddedControlCa(read_control_ca(config.state, config.passphrase))
    atomic_files.make_directory(config.state / JOURNAL)
    return Backends(
        control,
        EmbeddedIssuer(config.state, config.key_type, config.passphrase),
        open_signer(config.state, config.trust_domain, config.passphrase),
        DirectoryJournal(config.state / JOURNAL),
    )


async def _in_openbao(
    config: AuthorityConfig, openbao: OpenBaoConfig, client: OpenBaoClient, clock: Callable[[], float]
) -> Backends:
    layout = openbao.layout
    control = await open_control_ca(client, layout)
    store_control_certificate(config.state, control.certificate)  # for the command line, which need not log in
    tolerance = config.timing.tolerance_seconds
    return Backends(
        control,
        OpenBaoIssuer(client, layout, config.key_type, tolerance_seconds=tolerance, clock=clock),
        await open_transit_signer(client, layout.transit, layout.key, config.trust_domain),
        OpenBaoJournal(client, layout.kv, layout.prefix),
        {"OpenBao": client},
    )
