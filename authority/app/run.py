"""The authority's composition root: opens the parts that the configuration names, assembles them and runs them."""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from authority.api import routes
from authority.api.address import address, address_for_replicas, write_address
from authority.api.authentication import Authenticator
from authority.api.leader_proxy import open_leader_proxy
from authority.api.token_files import read_tokens, reload_tokens
from authority.api.tokens import Tokens
from authority.app.assembly import Assembly, AuthorityParts, assemble
from authority.app.backends import open_backends
from authority.app.cluster import Cluster, open_cluster, watch_tasks
from authority.app.failure_log import log, log_failure
from authority.app.https import log_renewal_failure, serving
from authority.app.injection import open_injector
from authority.app.publishers import open_publishers
from authority.app.trust import trust_by
from authority.config.load import AuthorityConfig
from authority.controllers.leadership import follow, lead
from authority.election.file import FileElection
from authority.election.interface import Election, Replica
from authority.pki.server_certificate import ServerCertificate
from authority.support.tasks import Task, until
from authority.web.listener import listen

Clock = Callable[[], float]

Elect = Callable[[Replica], Election]


@dataclass(frozen=True, slots=True)
class _ApiServer:
    """The parts of the API that exist before the authority is assembled."""

    listening: socket.socket
    certificate: ServerCertificate
    tokens: Tokens

    @property
    def port(self) -> int:
        port: int = self.listening.getsockname()[1]
        return port


async def run(
    config: AuthorityConfig, stop: asyncio.Event, clock: Clock = time.time, elect: Elect | None = None
) -> None:
    """Run until ``stop`` is set; ``elect`` makes this replica's election in place of the configured one.

    Raises:
        KeystoreError, SignerError, IssuerError: the state directory is not what ``init`` makes.
        ListenError: the API cannot listen on the configured address.
        ElectionError: replicas cannot agree on a leader.
        KubernetesError: there are no credentials for the configured cluster.
    """
    async with open_backends(config, clock) as backends, open_cluster(config.kubernetes) as cluster:
        # All state is read before anything listens: where it is not usable, the program ends with exit status 3.
        tokens = read_tokens(config.state, cluster.reviewer() if cluster else None)
        certificate = ServerCertificate(backends.control, config.api.names)
        await certificate.renew(int(clock()))
        await backends.issuer.roots()
        trust = await trust_by(config, backends.signer, backends.control.certificate)
        with closing(await listen(config.api.listen.host, config.api.listen.port, "api.listen")) as listening:
            server = _ApiServer(listening, certificate, tokens)
            name = f"{socket.gethostname()}-{secrets.token_hex(3)}"
            me = Replica(name, address_for_replicas(config.api, server.port))
            election = elect(me) if elect else _election(config, me, cluster)
            log.info("listening", extra={"fields": {"replica": me.name, "url": me.url}})
            await _serve(AuthorityParts(config, trust, backends, election, cluster, clock), server, stop)


async def _serve(parts: AuthorityParts, server: _ApiServer, stop: asyncio.Event) -> None:
    config, backends = parts.config, parts.backends
    async with (
        open_publishers(config, parts.trust, parts.cluster) as publishers,
        open_leader_proxy(parts.election, backends.control.certificate, config.api.names[0]) as proxy,
        open_injector(config.injector, backends, parts.cluster, parts.clock) as injector_tasks,
    ):
        assembly = assemble(parts, publishers)
        authenticator = Authenticator(server.tokens, config.api.open_reads)
        api = routes.application(assembly.queries, assembly.operations, authenticator, proxy)
        async with serving("api", api, server.listening, server.certificate) as accept:
            # Only where no file is there yet: the address in it is the leader's, which this replica may not become.
            _write_address(config, server, over=False)
            await until(
                stop.wait(),
                {
                    "api": accept,
                    **_tasks(parts, assembly, server),
                    **injector_tasks,
                    **watch_tasks(publishers, assembly.members),
                },
            )


def _tasks(parts: AuthorityParts, assembly: Assembly, server: _ApiServer) -> dict[str, Task]:
    """The loops that every replica runs, leader or not."""
    config, election = parts.config, parts.election
    announce = partial(_write_address, config, server, over=True)
    return {
        "election": election.run,
        "leading": partial(lead, election, assembly.context, assembly.controllers, announce),
        "following": partial(follow, election, assembly.context),
        "tokens": partial(reload_tokens, server.tokens, config.state, _log_token_failure),
        "api certificate": partial(server.certificate.run_renewal, parts.clock, partial(log_renewal_failure, "api")),
    }


def _write_address(config: AuthorityConfig, server: _ApiServer, *, over: bool) -> None:
    write_address(config.state, address(config.api, server.port), over=over)


def _election(config: AuthorityConfig, me: Replica, cluster: Cluster | None) -> Election:
    if cluster is not None:
        return cluster.election(me, config.election.lease_seconds)
    return FileElection(
        me, config.election.directory, partial(log_failure, "election_error"), config.election.lease_seconds
    )


def _log_token_failure(error: Exception) -> None:
    log_failure("token_reload_failed", error, level=logging.ERROR)
