"""Election by a Lease (coordination.k8s.io/v1), as client-go's leader election holds it.

The holder writes its name and renews; the others wait until the Lease has not changed for a lease's duration, as they
saw it by their own clocks, and never by the times that stand in it. Every write is over the version that was read, so
of several that want to take over one wins. A holder that could not renew in time stops before anybody may take over;
one that ends in good order lets go, and the next one leads within a retry. The leader's URL stands in an annotation.

It is renewed on the event loop. Ten thousand receipts at once delay that by less than a retry (docs/benchmarks.md), and
what takes long (keys, files) is done in threads; a loop that does not turn for longer should lose.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from authority.election.interface import LEASE_SECONDS, ElectionError, Replica
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import KubernetesError, ObjectConflict, ObjectExists

URL_ANNOTATION = "tidemark.io/url"


@dataclass(frozen=True, slots=True)
class LeaseAt:
    """Which Lease the replicas agree by."""

    client: KubernetesClient
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds: how long the others wait before they take over, how long a holder may fail to renew before it stops, and
    the pause between tries. A takeover after a kill takes at most ``lease`` and two jittered pauses."""

    lease: int
    renew: float
    retry: float

    @classmethod
    def of(cls, lease: int) -> "LeaseTimes":
        """In the proportions of client-go."""
        return cls(lease, lease * 2 / 3, lease / 6)


TIMES = LeaseTimes.of(LEASE_SECONDS)
"""Unless the configuration says otherwise."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What of a Lease shows that its holder lives, and when it was last seen to change, by our own clock."""

    record: tuple[object, ...]
    at: float


def boottime() -> float:
    """Seconds of a clock that never jumps and also counts while the machine sleeps (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseElection:
    """Implements ``Election``.

    ``failed`` is told of what went wrong and is tried again. ``clock`` counts seconds, also while we are paused.
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
        self._client, self._namespace, self._name = lease.client, lease.namespace, lease.name
        self._failed = failed
        self._times = times
        self._clock = clock
        self._held: Lease | None = None
        self._until = float("-inf")
        self._other: Replica | None = None
        self._seen: _Seen | None = None
        self._changed = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether our lease runs at this instant."""
        return self._held is not None and self._clock() < self._until

    @property
    def leader(self) -> Replica | None:
        """Who leads, as last seen."""
        return self.me if self.leads else self._other

    async def run(self) -> None:
        """Campaign and renew until cancelled; then let go."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._times.renew):
                        await self.turn()
                except (KubernetesError, TimeoutError) as error:
                    found = str(error) or f"no answer within {self._times.renew:g} s"
                    self._failed(ElectionError(f"election {self._where}: expected to hold it by a Lease; {found}"))
                if self._held is not None and not self.leads:
                    self._stand_down()
                jitter = random.uniform(0.8, 1.2)  # noqa: S311 - keeps two that wait from meeting every time
                await asyncio.sleep(self._times.retry * jitter)
        finally:
            await self._resign()

    async def won(self) -> None:
        """Return once ``me`` leads."""
        while not self.leads:
            await self._changed.wait()

    async def lost(self) -> None:
        """Return once the term is over that was running at the call, also where nobody has noticed yet."""
        changed = self._changed
        while self.leads and self._changed is changed:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._until - self._clock())):
                    await changed.wait()

    async def turn(self) -> None:
        """Look once, and do what follows: renew, stand down, or take over. Raises KubernetesError."""
        if self._held is not None and not self.leads:
            self._stand_down()  # paused or cut off: whatever the Lease says, others may have gone on without us
        began = self._clock()
        found = await self._client.get(Lease, self._name, self._namespace)
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
        """Whether nobody holds it (any more)."""
        if _holder(found) in ("", self.me.name):  # let go, or written by us and the answer was lost
            return True
        spec = found.spec or LeaseSpec()
        record = (spec.holderIdentity, spec.renewTime, spec.acquireTime, spec.leaseTransitions)
        if self._seen is None or self._seen.record != record:
            self._seen = _Seen(record, self._clock())
        return self._clock() - self._seen.at >= max(spec.leaseDurationSeconds or 0, self._times.lease)

    async def _write(self, found: Lease | None, began: float) -> None:
        """Take the Lease or renew it: ours until a while after ``began``, unless another was faster."""
        try:
            held = await self._put(found, self._renewed(found))
        except (ObjectConflict, ObjectExists):
            return  # another was faster, or we were and the answer was lost: the next look shows it
        is_another_term = not self.leads  # also where ours has ended while the answer was on its way
        self._held, self._until = held, began + self._times.renew
        self._other, self._seen = None, None
        if is_another_term:
            self._turned()

    async def _put(self, found: Lease | None, wanted: Lease) -> Lease:
        if found is None:
            return await self._client.create(wanted, self._namespace)
        return await self._client.replace(wanted, self._namespace)

    def _renewed(self, found: Lease | None) -> Lease:
        """The Lease with us as its holder, over the version that was found."""
        old = (found.spec if found is not None else None) or LeaseSpec()
        is_ours = old.holderIdentity == self.me.name
        transitions = (old.leaseTransitions or 0) + (0 if is_ours or found is None else 1)
        return self._lease(
            found,
            LeaseSpec(
                holderIdentity=self.me.name,
                leaseDurationSeconds=self._times.lease,
                acquireTime=old.acquireTime if is_ours and old.acquireTime else self._micro_time(),
                renewTime=self._micro_time(),
                leaseTransitions=transitions,
            ),
        )

    def _lease(self, found: Lease | None, spec: LeaseSpec) -> Lease:
        metadata = found.metadata if found is not None and found.metadata is not None else ObjectMeta()
        annotations = (metadata.annotations or {}) | {URL_ANNOTATION: self.me.url}
        return Lease(
            metadata=ObjectMeta(
                name=self._name,
                namespace=self._namespace,
                resourceVersion=metadata.resourceVersion,
                labels=metadata.labels,
                annotations=annotations,
            ),
            spec=spec,
        )

    async def _resign(self) -> None:
        """Let go of the Lease, so that nobody has to wait for its end."""
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
        with suppress(KubernetesError, TimeoutError):  # the others wait for its end then
            async with asyncio.timeout(self._times.retry):
                await self._client.replace(self._lease(held, released), self._namespace)

    def _stand_down(self) -> None:
        self._held, self._until = None, float("-inf")
        self._turned()

    def _turned(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _micro_time(self) -> datetime:
        """Now by the API server's clock, as a MicroTime that it can read: without a fraction it takes none."""
        now = datetime.fromtimestamp(self._client.server_time or time.time(), UTC)
        return now.replace(microsecond=now.microsecond or 1)

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"


def _annotations(lease: Lease) -> dict[str, str]:
    return (lease.metadata.annotations if lease.metadata is not None else None) or {}


def _holder(lease: Lease) -> str:
    return (lease.spec.holderIdentity if lease.spec is not None else None) or ""
