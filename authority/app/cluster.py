"""Parts of an authority that use Kubernetes: publisher, leaf Secrets, fleet, token review, election, cert-manager."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from authority.api.token_review import KubernetesTokenReviewer
from authority.app.failure_log import log_failure
from authority.config.kubernetes import KubernetesConfig, SecretName
from authority.controllers.cert_manager_api import CertManagerClient
from authority.election.interface import Replica
from authority.election.kubernetes import LeaseAt, LeaseElection, LeaseTimes
from authority.fleet.members import Members
from authority.fleet.pods import PodMembers
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.nudge import Nudge
from authority.publishers.interface import Publisher
from authority.publishers.kubernetes import KubernetesPublisher
from authority.publishers.leaf_secret import KubernetesLeafStore
from authority.support.tasks import Task
from tidemark.trust import Trust


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connected cluster, and the parts that the configuration asks for there."""

    client: KubernetesClient
    config: KubernetesConfig
    namespace: str
    """The authority's own."""
    nudge: Nudge | None

    def election(self, me: Replica, lease_seconds: int) -> LeaseElection:
        """The election by a Lease in the authority's namespace."""
        at = LeaseAt(self.client, self.namespace, self.config.lease)
        return LeaseElection(me, at, partial(log_failure, "election_error"), LeaseTimes.of(lease_seconds))

    def publisher(self, trust: Trust) -> KubernetesPublisher:
        """The publisher to every labelled namespace."""
        return KubernetesPublisher(self.client, trust, self.namespace, self.nudge)

    def leaf_store(self, secret: SecretName) -> KubernetesLeafStore:
        """The store of one workload's leaf: a Secret."""
        return KubernetesLeafStore(self.client, secret.namespace, secret.name, self.nudge)

    def cert_manager(self) -> CertManagerClient | None:
        """The client of cert-manager's Certificates; None where the configuration does not name any."""
        return CertManagerClient(self.client, self.config.cert_manager) if self.config.cert_manager else None

    def members(self) -> PodMembers | None:
        """The fleet's pods; None where the configuration lists the agents itself."""
        return PodMembers(self.client, self.config.fleet, _log_watch_failure) if self.config.fleet else None

    def reviewer(self) -> KubernetesTokenReviewer | None:
        """The reviewer of the agents' tokens; None where agents share the authority's own token."""
        return KubernetesTokenReviewer(self.client, self.config.audience) if self.config.fleet else None


@asynccontextmanager
async def open_cluster(config: KubernetesConfig | None) -> AsyncIterator[Cluster | None]:
    """Connect to the configured cluster; None without one. Raises KubernetesError where there are no credentials."""
    if config is None:
        yield None
        return
    async with KubernetesClient(config.access) as client:
        nudge = Nudge(client, partial(log_failure, "nudge_failed")) if config.nudge else None
        yield Cluster(client, config, config.namespace or client.namespace, nudge)


def watch_tasks(publishers: Iterable[Publisher], members: Members) -> dict[str, Task]:
    """The watches of namespaces, Secrets and pods: every replica keeps them up, so that a new leader knows at once."""
    tasks: dict[str, Task] = {}
    for publisher in publishers:
        if isinstance(publisher, KubernetesPublisher):
            tasks["kubernetes targets"] = partial(publisher.run, _log_watch_failure)
    if isinstance(members, PodMembers):
        tasks["kubernetes fleet"] = members.run
    return tasks


def _log_watch_failure(_: str, error: str, __: float) -> None:
    log_failure("watch_failed", error)
