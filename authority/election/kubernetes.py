"""Election by a Lease (coordination.k8s.io/v1), as client-go's leader election holds it.

The holder writes its name and renews. The others wait until the Lease has not changed for the lease's duration, as they
see it by their own clocks; the times in the Lease do not count. Every write is over the version that was read, so of
several replicas that want to take over one wins. A holder that could not renew in time stops before others may take
over; a holder that ends in good order clears its name, and the next one leads within a retry. An annotation has the
leader's URL.

The Lease is renewed on the event loop. Ten thousand receipts at once delay that by less than a retry
(docs/benchmarks.md), and what takes long (keys, files) is done in threads; a loop that does not turn for longer should
lose.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from authority.election.interface import LEASE_SECONDS, ElectionError, Replica, boottime
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import KubernetesError, ObjectConflict, ObjectExists
from authority.support.backoff import jittered

URL_ANNOTATION = "tidemark.io/url"


@dataclass(frozen=True, slots=True)
class LeaseAt:
    """The Lease by which the replicas agree."""

    client: KubernetesClient
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """In seconds. A takeover after a kill takes at most ``lease`` and two jittered pauses."""

    lease: int
    """How long the others wait before they take over."""
    renew: float
    """How long a holder may fail to renew before it stops."""
    retry: float
    """Between two tries."""

    @classmethod
    def of(cls, lease: int) -> "LeaseTimes":
        """In the proportions of client-go."""
        return cls(lease, lease * 2 / 3, lease / 6)


TIMES = LeaseTimes.of(LEASE_SECONDS)
"""The default of the configuration."""


@dataclass(frozen=True, slots=True)
class _SeenLease:
    """The fields of a Lease that change while its holder lives."""

    record: tuple[object, ...]
    at: float
    """When ``record`` was first seen, by our own clock."""


class LeaseElection:
    """Implements ``Election``.

    ``failed`` takes an error after which the campaign goes on. ``clock`` counts seconds, also while we are paused.
    Ten fields: what it is made with, the Lease that it holds, and what it saw of others.
    """

    def __init__(
        self,
        me: Replica,
        lease: LeaseAt,
        failed: Callable[[ElectionError], None],
        times: LeaseTimes = TIMES,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.me = me
        self._lease = lease
        self._failed = failed
        self._times = times
        self._clock = clock
        self._held: Lease | None = None
        self._until = float("-inf")
        self._other: Replica | None = None
        self._seen: _SeenLease | None = None
        self._changed = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether our lease runs at this instant."""
        return self._held is not None and self._clock() < self._until

    @property
    def leader(self) -> Replica | None:
        """The leader, as last seen."""
        return self.me if self.leads else self._other

    async def run(self) -> None:
        """Campaign and renew until cancelled; then clear our name from the Lease."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._times.renew):
                        await self.turn()
                except (KubernetesError, TimeoutError) as error:
                    found = str(error) or f"no answer within {self._times.renew:g} s"
                    where = f"{self._lease.namespace}/{self._lease.name}"
                    self._failed(ElectionError(f"election {where}: expected to hold it by a Lease; {found}"))
                if self._held is not None and not self.leads:
                    self._stand_down()
                # Without jitter two replicas that wait would collide every time.
                await asyncio.sleep(jittered(self._times.retry, 0.8, 1.2))
        finally:
            await self._resign()

    async def won(self) -> None:
        """Return once ``me`` leads."""
        while not self.leads:
            await self._changed.wait()

    async def lost(self) -> None:
        """Return once the term that runs now is over, also where the lease ends before the next turn."""
        changed = self._changed
        while self.leads and self._changed is changed:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._until - self._clock())):
                    await changed.wait()

    async def turn(self) -> None:
        """Read the Lease once, and renew, stand down or take over. Raises KubernetesError."""
        if self._held is not None and not self.leads:
            # We were paused or cut off: another replica may have led since, though the Lease names us again.
            self._stand_down()
        began = self._clock()
        found = await self._lease.client.get(Lease, self._lease.name, self._lease.namespace)
        if self._held is not None and found is not None and _holder(found) == self.me.name:
            await self._write(found, began)
            return
        if self._held is not None:
            self._stand_down()
        if found is None or self._is_free(found):
            await self._write(found, self._clock())
        else:
            self._other = Replica(_holder(found), _annotations(found).get(URL_ANNOTATION, ""))

    def _is_free(self, found: Lease) -> bool:
        """Whether the Lease has no holder that lives."""
        # The name is cleared; or we wrote the Lease, and the answer was lost.
        if _holder(found) in ("", self.me.name):
            return True
        spec = found.spec or LeaseSpec()
        record = (spec.holderIdentity, spec.renewTime, spec.acquireTime, spec.leaseTransitions)
        if self._seen is None or self._seen.record != record:
            self._seen = _SeenLease(record, self._clock())
        return self._clock() - self._seen.at >= max(spec.leaseDurationSeconds or 0, self._times.lease)

    async def _write(self, found: Lease | None, began: float) -> None:
        """Take the Lease or renew it: ours for ``renew`` seconds after ``began``, unless another replica was faster."""
        try:
            held = await self._put(found, self._renewed(found))
        except (ObjectConflict, ObjectExists):
            # Another replica was faster, or our answer was lost: the next turn shows it.
            return
        # True as well where our lease ran out while the answer was under way: others may have led meanwhile.
        is_another_term = not self.leads
        self._held, self._until = held, began + self._times.renew
        self._other, self._seen = None, None
        if is_another_term:
            self._wake()

    async def _put(self, found: Lease | None, wanted: Lease) -> Lease:
        if found is None:
            return await self._lease.client.create(wanted, self._lease.namespace)
        return await self._lease.client.replace(wanted, self._lease.namespace)

    def _renewed(self, found: Lease | None) -> Lease:
        """The Lease with us as its holder, over the version that was found."""
        old = (found.spec if found is not None else None) or LeaseSpec()
        is_ours = old.holderIdentity == self.me.name
        transitions = (old.leaseTransitions or 0) + (0 if is_ours or found is None else 1)
        return self._lease_of(
            found,
            LeaseSpec(
                holderIdentity=self.me.name,
                leaseDurationSeconds=self._times.lease,
                acquireTime=old.acquireTime if is_ours and old.acquireTime else self._micro_time(),
                renewTime=self._micro_time(),
                leaseTransitions=transitions,
            ),
        )

    def _lease_of(self, found: Lease | None, spec: LeaseSpec) -> Lease:
        metadata = found.metadata if found is not None and found.metadata is not None else ObjectMeta()
        annotations = (metadata.annotations or {}) | {URL_ANNOTATION: self.me.url}
        return Lease(
            metadata=ObjectMeta(
                name=self._lease.name,
                namespace=self._lease.namespace,
                resourceVersion=metadata.resourceVersion,
                labels=metadata.labels,
                annotations=annotations,
            ),
            spec=spec,
        )

    async def _resign(self) -> None:
        """Clear our name from the Lease, so that no replica waits for its end."""
        held = self._held
        if held is None:
            return
        old = held.spec or LeaseSpec()
        released = LeaseSpec(
            holderIdentity="",
            leaseDurationSeconds=1,
            acquireTime=self._micro_time(),
            renewTime=self._micro_time(),
            leaseTransitions=old.leaseTransitions,
        )
        self._stand_down()
        # Where this fails, the others wait for the lease to run out.
        with suppress(KubernetesError, TimeoutError):
            async with asyncio.timeout(self._times.retry):
                await self._lease.client.replace(self._lease_of(held, released), self._lease.namespace)

    def _stand_down(self) -> None:
        self._held, self._until = None, float("-inf")
        self._wake()

    def _wake(self) -> None:
        """Let ``won`` and ``lost`` look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _micro_time(self) -> datetime:
        """Now by the API server's clock, as a MicroTime; the API refuses one without a fraction."""
        now = datetime.fromtimestamp(self._lease.client.server_time or time.time(), UTC)
        return now.replace(microsecond=now.microsecond or 1)


def _annotations(lease: Lease) -> dict[str, str]:
    return (lease.metadata.annotations if lease.metadata is not None else None) or {}


def _holder(lease: Lease) -> str:
    return (lease.spec.holderIdentity if lease.spec is not None else None) or ""
