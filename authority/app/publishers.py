"""Opens the configured publishers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import tidemark.nats
from authority.app.cluster import Cluster
from authority.app.failure_log import log_failure
from authority.config.load import AuthorityConfig, JetStreamConfig
from authority.pki.names import OWN_LEAF
from authority.publishers.directory import DirectoryPublisher
from authority.publishers.interface import Publisher
from authority.publishers.jetstream import BrokerConnection, JetStreamPublisher
from tidemark.trust import Trust


@asynccontextmanager
async def open_publishers(
    config: AuthorityConfig, trust: Trust, cluster: Cluster | None
) -> AsyncIterator[list[Publisher]]:
    """Open the publishers for as long as the context lasts.

    The authority's own identity for the broker is one more directory: the authority has to trust the bundle as well.
    """
    directories = [*config.directories, *([config.jetstream.directory] if config.jetstream else [])]
    publishers: list[Publisher] = [cluster.publisher(trust)] if cluster else []
    if directories or not publishers:
        publishers.append(DirectoryPublisher(directories, trust))
    if config.jetstream is None:
        yield publishers
        return
    jetstream = JetStreamPublisher(partial(_connect, config.jetstream), trust, config.jetstream.replicas)
    try:
        yield [*publishers, jetstream]
    finally:
        await jetstream.close()


async def _connect(config: JetStreamConfig) -> BrokerConnection:
    return await tidemark.nats.connect(
        list(config.servers), directory=config.directory, name=OWN_LEAF, error_cb=_log_connection_error
    )


async def _log_connection_error(error: Exception) -> None:
    """Called for every failed attempt to reconnect while the broker is away."""
    log_failure("nats_connection_error", error)
