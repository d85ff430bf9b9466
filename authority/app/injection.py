"""Starts the injector: the admission webhook with its certificate and its ``caBundle``."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial

from authority.app.backends import Backends
from authority.app.cluster import Cluster
from authority.app.failure_log import log_failure
from authority.app.https import log_renewal_failure, serving
from authority.config.injector import InjectorConfig
from authority.injector import server
from authority.injector.ca_bundle import reconcile_ca_bundle
from authority.pki.server_certificate import ServerCertificate
from authority.support.tasks import Task
from authority.web.listener import listen
from tidemark.certificates import to_pem


@asynccontextmanager
async def open_injector(
    config: InjectorConfig | None, backends: Backends, cluster: Cluster | None, clock: Callable[[], float]
) -> AsyncIterator[dict[str, Task]]:
    """Listen for the webhook; yields the tasks to run, none without ``[injector]``. Every replica serves it."""
    if config is None:
        yield {}
        return
    certificate = ServerCertificate(backends.control, config.names)
    await certificate.renew(int(clock()))
    renewal = partial(certificate.run_renewal, clock, partial(log_renewal_failure, "injector"))
    tasks: dict[str, Task] = {"injector certificate": renewal}
    if cluster is not None and config.webhook is not None:
        ca = to_pem([backends.control.certificate])
        tasks["ca bundle"] = partial(reconcile_ca_bundle, cluster.client, config.webhook, ca, _log_ca_bundle_failure)
    with closing(await listen(config.listen.host, config.listen.port, "injector.listen")) as listening:
        async with serving("injector", server.application(config.sidecar), listening, certificate) as accept:
            yield {**tasks, "injector": accept}


def _log_ca_bundle_failure(error: Exception) -> None:
    log_failure("ca_bundle_update_failed", error, level=logging.ERROR)
