"""What Kubernetes is to an authority: a publisher, the fleet, whose tokens are whose, an election, and a clock."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from authority.api.token_review import KubernetesTokenReviewer
from authority.config.kubernetes import KubernetesConfig, SecretName
from authority.controllers.cert_manager_api import CertManagerClient
from authority.election.interface import ElectionError, Replica
from authority.election.kubernetes import LeaseAt, LeaseElection, LeaseTimes
from authority.fleet.members import Members
from authority.fleet.pods import PodMembers
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.nudge import Nudge
from authority.publishers.interface import Publisher
from authority.publishers.kubernetes import KubernetesPublisher
from authority.publishers.leaf_secret import KubernetesLeafStore
from authority.support.log_format import RepeatFilter
from authority.support.tasks import Task
from tidemark.trust import Trust

log = logging.getLogger("authority")


@dataclass(frozen=True, slots=True)
class Cluster:
    """``client`` is connected for as long as this is used; ``namespace`` is the authority's own."""

    client: KubernetesClient
    config: KubernetesConfig
    namespace: str
    nudge: Nudge | None

    def election(self, me: Replica, lease_seconds: int) -> LeaseElection:
        """By a Lease in the authority's namespace."""
        at = LeaseAt(self.client, self.namespace, self.config.lease)
        return LeaseElection(me, at, _unelected(), LeaseTimes.of(lease_seconds))

    def publisher(self, trust: Trust) -> KubernetesPublisher:
        """To every labelled namespace."""
        return KubernetesPublisher(self.client, trust, self.namespace, self.nudge)

    def leaf_store(self, secret: SecretName) -> KubernetesLeafStore:
        """One workload's Secret."""
        return KubernetesLeafStore(self.client, secret.namespace, secret.name, self.nudge)

    def cert_manager(self) -> CertManagerClient | None:
        """Whose leaves have to be renewed after a withdrawal; None where the configuration does not say."""
        return CertManagerClient(self.client, self.config.cert_manager) if self.config.cert_manager else None

    def members(self, on_change: Callable[[], None]) -> PodMembers | None:
        """The fleet's pods; None where the configuration lists the agents itself."""
        return PodMembers(self.client, self.config.fleet, on_change, unwatched()) if self.config.fleet else None

    def reviewer(self) -> KubernetesTokenReviewer | None:
        """Who knows the agents' tokens; None where they have the authority's own."""
        return KubernetesTokenReviewer(self.client, self.config.audience) if self.config.fleet else None


@asynccontextmanager
async def open_cluster(config: KubernetesConfig | None) -> AsyncIterator[Cluster | None]:
    """Connect, where the configuration says so. Raises KubernetesError where there are no usable credentials."""
    if config is None:
        yield None
        return
    async with KubernetesClient(config.access) as client:
        nudge = Nudge(client, partial(_complain, "nudge", RepeatFilter())) if config.nudge else None
        yield Cluster(client, config, config.namespace or client.namespace, nudge)


def watching(publishers: Iterable[Publisher], members: Members) -> dict[str, Task]:
    """What runs for as long as the authority does, whoever leads."""
    tasks: dict[str, Task] = {}
    for publisher in publishers:
        if isinstance(publisher, KubernetesPublisher):
            tasks["kubernetes targets"] = partial(publisher.run, unwatched())
    if isinstance(members, PodMembers):
        tasks["kubernetes fleet"] = members.run
    return tasks


def unwatched() -> Callable[[str, str, float], None]:
    """Says what cannot be watched at present."""
    repetitions = RepeatFilter()
    return lambda what, error, _: _complain("not_watched", repetitions, error, what)


def _unelected() -> Callable[[ElectionError], None]:
    repetitions = RepeatFilter()
    return lambda error: _complain("election", repetitions, str(error))


def _complain(event: str, repetitions: RepeatFilter, error: str, place: str = "") -> None:
    if not repetitions.is_one(place, error, time.monotonic()):
        log.warning(event, extra={"fields": {"error": error}})
