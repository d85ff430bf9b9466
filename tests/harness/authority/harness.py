"""A whole authority in virtual time: the real controllers over backends in memory, with agents that send proofs."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from authority.controllers.context import ControllerContext
from authority.controllers.leaves import LeafController
from authority.controllers.rotation import RotationController, RotationDependencies
from authority.fleet.view import FleetView
from authority.issuer.interface import IssuedLeaf, Issuer
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import History
from authority.journal.interface import Journal
from authority.journal.store import JournalStore
from authority.pki import certificates
from authority.pki.certificates import LeafNames, Validity
from authority.pki.keystore import CaPair
from authority.publishers.interface import Publisher
from authority.publishers.leaf_store import LeafStore
from authority.rotation.events import Event
from authority.rotation.leaf_renewal import LeafSubject
from authority.signer.interface import StatementSigner
from authority.support.clock_skew import ReferenceClock
from tests.harness.authority.journal_builder import DOMAIN, PLAYGROUND, START, Pods
from tests.harness.authority.memory_backends import (
    Effects,
    MemoryIssuer,
    MemoryJournal,
    MemoryLeafStore,
    MemoryPublisher,
    MemorySigner,
)
from tests.harness.virtual_time import in_virtual_time
from tidemark.bundle import Bundle
from tidemark.certificates import (
    Certificate,
    LeafRejected,
    fingerprint,
    issued_by,
    not_after,
    not_before,
    parse_certificates,
    parse_leaf,
)
from tidemark.epoch import Timing
from tidemark.note import Verifier
from tidemark.receipt import LeafReport
from tidemark.trust import Trust
from tidemark.verify import Mark


def report_of(issued: IssuedLeaf | None, bundle: Bundle) -> LeafReport | None:
    """The report of an agent about its leaf; the chain of the leaf contains the signer, or the leaf does not fit."""
    if issued is None:
        return None
    try:
        leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    except LeafRejected:
        return None
    cas = (*parse_certificates(bundle.ca), *leaf.chain)
    issuer = next((ca for ca in cas if issued_by(leaf.certificate, ca)), None)
    if issuer is None:
        return None
    return LeafReport(
        sha256=leaf.sha256,
        issuer=leaf.certificate.issuer.rfc4514_string(),
        issuer_sha256=fingerprint(issuer),
        serial=f"{leaf.certificate.serial_number:x}",
        not_before=not_before(leaf.certificate),
        not_after=not_after(leaf.certificate),
    )


E = TypeVar("E", bound=Event)
P = ParamSpec("P")

WORKLOAD = LeafSubject("nats-0", "nats-0", ("nats-0.nats.svc",), ("127.0.0.1",))


def signed_leaf(by: CaPair, validity: Validity, workload: LeafSubject = WORKLOAD) -> Certificate:
    """A workload's leaf as ``by`` signs it."""
    names = LeafNames(workload.common_name, workload.dns_names, workload.ip_addresses)
    return certificates.leaf(names, ec.generate_private_key(ec.SECP256R1()), validity, by)


@dataclass
class AuthorityHarness:
    """An authority whose backends are in memory and outlive it; ``boot`` starts another authority on them.

    The fields, more than eight, are what tests vary about one deployment; each has a default, so that a test names
    only those it is about.
    """

    timing: Timing = PLAYGROUND
    began: int = START
    """Unix seconds at the virtual loop's time 0."""
    effects: Effects = field(default_factory=Effects)
    publishers: list[Publisher] = field(default_factory=list)
    """In addition to ``target``, which comes first."""
    include_root: bool = True
    events: list[Event] = field(default_factory=list)
    """All that was reported, in order."""
    publishing: list[str] = field(default_factory=list)
    proving: bool = True
    """Whether the agents prove what the target has."""
    readable: bool = True
    reconcile_seconds: int = 0
    references: dict[str, ReferenceClock] = field(default_factory=dict)
    """The clocks that the authority compares its own with, by the name of what has them."""

    def __post_init__(self) -> None:
        self.journal = MemoryJournal(self.effects)
        self.issuer = MemoryIssuer(self.effects)
        self.signer = MemorySigner(self.effects)
        self.target = MemoryPublisher("mounts", self.effects)
        self.publishers.insert(0, self.target)
        self.workloads: list[tuple[LeafSubject, LeafStore]] = []
        self.leaf = MemoryLeafStore(effects=self.effects)
        self.workloads.append((WORKLOAD, self.leaf))
        self.pods = Pods(clock=self.timing.clock)
        self.pods.add("nats-0")
        self.on_view: Callable[[int], None] = self.report
        self._task: asyncio.Task[None] | None = None
        self._leads: asyncio.Event
        self.rotation: RotationController
        self.leaves: LeafController
        self.journal_store: JournalStore

    def now(self) -> int:
        return self.began + int(asyncio.get_running_loop().time() + 1e-6)

    def boot(self) -> None:
        """Start an authority whose only knowledge is in the backends."""
        self.boot_on(self.journal, self.issuer, self.signer, tuple(s.verifier for s in self.signer.signers))

    def boot_on(
        self, journal: Journal, backend: Issuer, signer: StatementSigner, verifiers: tuple[Verifier, ...]
    ) -> None:
        """Start an authority on these backends."""
        self.pods.clock = self.timing.clock
        self._leads = leads = asyncio.Event()
        leads.set()
        self.journal_store = JournalStore(journal, leads.is_set)
        issuer = SerializedIssuer(backend)
        trust = Trust(DOMAIN, verifiers, tolerance_seconds=self.timing.tolerance_seconds)
        context = ControllerContext(
            journal=self.journal_store,
            trust=trust,
            timing=self.timing,
            now=self.now,
            observe=self.events.append,
            reconcile_seconds=self.reconcile_seconds,
            references=self.references,
        )
        dependencies = RotationDependencies(
            issuer, signer, self.publishers, self.include_root, self.view, on_publish=self.publishing.append
        )
        self.rotation = RotationController(context, dependencies)
        self.leaves = LeafController(context, issuer, self.workloads)
        self._task = asyncio.create_task(self._run(), name="authority")

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.rotation.run(), name="rotation")
            group.create_task(self.leaves.run(), name="leaves")

    def view(self, history: History, now: int) -> FleetView:
        newest = history.newest
        self.on_view(now)
        if not self.readable:
            return FleetView(readable=False, agents=())
        return self.pods.view_of(newest.digest if newest else "", now)

    def report(self, now: int) -> None:
        """Every agent proves at once what the target shows, unless it is set not to."""
        if self.proving and self.target.bundle is not None:
            leaf = report_of(self.leaf.leaf, self.target.bundle)
            for pod in self.pods.expected:
                self.pods.prove(pod.name, self.pods_mark(), now, leaf)

    def pods_mark(self) -> Mark:
        """The statement that the target shows."""
        return Mark(self.target.sequence, self.target.digest)

    async def sleep(self, seconds: float) -> None:
        """Let time pass; fails where the authority ended by itself."""
        await asyncio.sleep(seconds)
        if self._task is not None and self._task.done():
            await self._task

    async def until(self, instant: int) -> None:
        await self.sleep(instant - self.began - asyncio.get_running_loop().time())

    async def settle(self) -> None:
        """Let everything happen that is due now."""
        await self.sleep(0.01)

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def died(self) -> bool:
        """Whether a fault killed the authority; then none of its tasks runs any more."""
        if self._task is None or not self._task.done():
            return False
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        return True

    def depose(self) -> "asyncio.Task[None]":
        """The authority leads no longer, whether it knows or not: another may be booted beside it. Returns its task."""
        task, self._task = self._task, None
        assert task is not None
        self._leads.clear()
        return task

    async def sleep_until_death(self) -> None:
        for _ in range(1000):
            await asyncio.sleep(0.1)
            if await self.died():
                return
        raise AssertionError("expected the authority to be struck, it lives")

    def of(self, kind: type[E], where: Callable[[E], bool] = lambda _: True) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind) and where(event)]


def check_published(harness: AuthorityHarness, history: History) -> None:
    """The target has the newest statement and never had a text that the journal lacks; the signing CA made the leaf."""
    assert history.newest is not None
    assert history.signing is not None
    assert harness.target.digest == history.newest.digest
    assert all(len(texts) == 1 for texts in harness.target.texts.values()), "two texts for one sequence"
    for signed in history.statements:
        published = harness.target.texts.get(signed.statement.sequence, {signed.digest})
        assert published == {signed.digest}, "a text was published that the journal does not hold"
    assert harness.leaf.certificate is not None
    assert issued_by(harness.leaf.certificate, history.signing.certificate)


def alive(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test in virtual time whose ``harness`` has been booted before it, and is stopped after it."""

    @wraps(test)
    async def live(*args: P.args, **fixtures: P.kwargs) -> None:
        harness = fixtures["harness"]
        assert isinstance(harness, AuthorityHarness)
        harness.boot()
        await test(*args, **fixtures)
        await harness.stop()

    return in_virtual_time(live)
