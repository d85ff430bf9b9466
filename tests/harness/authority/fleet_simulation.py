"""A model of a whole deployment over simulated days: the real controllers, real certificates, and agents that verify.

Each agent stands for a pod: two mounts (bundle and leaf) that follow what the authority writes with delays of their
own, a clock of its own, the agents' verification, a reload of some duration, and a workload that uses the set which
was installed last. Each change of what any workload uses is checked against all the others.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from authority.issuer.interface import IssuedLeaf
from authority.rotation.leaf_renewal import LeafSubject
from tests.harness import virtual_time
from tests.harness.authority.harness import AuthorityHarness
from tests.harness.authority.journal_builder import DOMAIN, SIGNER
from tests.harness.authority.memory_backends import MemoryLeafStore
from tidemark.bundle import Bundle
from tidemark.certificates import (
    Leaf,
    LeafRejected,
    fingerprint,
    issued_by,
    leaf_issuer,
    not_after,
    not_before,
    parse_leaf,
)
from tidemark.epoch import PRESETS, RELOAD_SECONDS, Timing
from tidemark.receipt import LeafReport, PodClass
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, Known, Mark, Reason, VerifiedBundle, verify


@dataclass(frozen=True)
class InUse:
    """What a workload uses: the CAs that it trusts, by fingerprint; its leaf; and the CA that signed the leaf."""

    bundle: VerifiedBundle
    leaf: Leaf
    issuer: str

    @property
    def report(self) -> LeafReport:
        """What a receipt says about the leaf."""
        return LeafReport(
            sha256=self.leaf.sha256,
            issuer=self.leaf.certificate.issuer.rfc4514_string(),
            issuer_sha256=self.issuer,
            serial=f"{self.leaf.certificate.serial_number:x}",
            not_before=not_before(self.leaf.certificate),
            not_after=not_after(self.leaf.certificate),
        )


@dataclass(repr=False, eq=False)
class SimulatedAgent:
    """One pod. ``skew`` seconds is its clock ahead; ``proves`` and ``works`` say what is broken about it."""

    name: str
    model: "FleetSimulation"
    pod_class: PodClass
    skew: int
    proves: bool = True
    works: bool = True
    in_use: InUse | None = None
    proven: Mark | None = None
    refusals: list[BundleRejected] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(f"{self.model.seed} {self.name}")  # noqa: S311  # delays, no secrets
        self.store = MemoryLeafStore(f"secrets/{self.name}", on_write=lambda _: self._soon(self._sync_leaf))
        self.known = Known()
        self.fitting: Leaf | None = None
        self.shown_bundle: Bundle | None = None
        self.shown_leaf: IssuedLeaf | None = None
        self.changed = asyncio.Event()

    def now(self) -> int:
        return self.model.harness.now() + self.skew

    def trust(self) -> Trust:
        return Trust(DOMAIN, (SIGNER.verifier,), tolerance_seconds=self.model.harness.timing.tolerance_seconds)

    def bundle_written(self) -> None:
        self._soon(self._sync_bundle)

    def _soon(self, sync: "object") -> None:
        """Update the mount after a delay within the delivery time; the mount then shows the newest content."""
        delay = self.random.uniform(0, self.model.harness.timing.delivery_seconds)
        assert callable(sync)
        asyncio.get_running_loop().call_later(delay, sync)

    def _sync_bundle(self) -> None:
        self.shown_bundle = self.model.harness.target.bundle
        self.changed.set()

    def _sync_leaf(self) -> None:
        self.shown_leaf = self.store.leaf
        self.changed.set()

    def restart(self) -> None:
        """Replace the pod: the new pod has no state, and its mounts show the newest content."""
        self.known, self.fitting, self.in_use, self.proven = Known(), None, None, None
        self.shown_bundle, self.shown_leaf = self.model.harness.target.bundle, self.store.leaf
        self.changed.set()

    async def run(self) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            if self.shown_bundle is not None and self.works:
                await self._take(self.shown_bundle)

    async def _take(self, candidate: Bundle) -> None:
        try:
            verified = verify(candidate, self.trust(), self.known, self.now())
        except BundleRejected as error:
            if error.reason is not Reason.SUPERSEDED:
                self.refusals.append(error)
            return
        mark = Mark(verified.sequence, verified.digest)
        self.known = Known(highest=mark, installed=verified, shown=verified.sequence)
        leaf = self._fitting(verified)
        if leaf is None:
            return  # the first set of a pod needs a leaf
        issuer = next(
            fingerprint(ca) for ca in (*verified.certificates, *leaf.chain) if issued_by(leaf.certificate, ca)
        )
        await asyncio.sleep(self.random.uniform(0.02, RELOAD_SECONDS))
        self.model.check()  # what was in use was good until now
        changed = self.proven != mark or self.in_use is None or self.in_use.leaf != leaf
        self.in_use, self.proven = InUse(verified, leaf, issuer), mark
        if changed:
            self.model.harness.rotation.wake()
        self.model.check()

    def _fitting(self, verified: VerifiedBundle) -> Leaf | None:
        """The mounted leaf if it fits the bundle, else the last leaf that did."""
        if self.shown_leaf is not None:
            leaf = parse_leaf(self.shown_leaf.certificate_pem, self.shown_leaf.key_pem)
            try:
                leaf_issuer(leaf, verified.certificates, verified.statement.withdrawn, self.now())
                self.fitting = leaf
            except LeafRejected:
                pass
        return self.fitting


@dataclass(repr=False, eq=False)
class FleetSimulation:
    """The deployment; ``problems`` is what went wrong, and it stays empty while ``strict``."""

    harness: AuthorityHarness
    seed: int = 0
    strict: bool = True
    agents: list[SimulatedAgent] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    checks: int = 0

    def __post_init__(self) -> None:
        self.random = Random(f"{self.seed}")  # noqa: S311  # a scenario, no secrets
        harness = self.harness
        harness.workloads.clear()
        harness.pods.expected.clear()
        spread = harness.timing.tolerance_seconds // 2
        skews = {"nats-0": 0, "nats-1": spread, "nats-2": -spread, "orders": spread, "billing": -spread}
        for name, skew in skews.items():
            self.add(name, PodClass.REQUIRED if name.startswith("nats") else PodClass.APPLICATION, skew)
        self.change_timing(harness.timing)
        harness.target.on_write = self._written
        harness.on_view = self._report

    def change_timing(self, timing: Timing) -> None:
        """Settings of the next authority. It seldom polls: each step must become due by the plan."""
        self.harness.timing = timing
        self.harness.reconcile_seconds = timing.clock.epoch_seconds // 4

    def add(self, name: str, pod_class: PodClass, skew: int = 0) -> SimulatedAgent:
        agent = SimulatedAgent(name, self, pod_class, skew)
        self.agents.append(agent)
        self.harness.workloads.append((LeafSubject(name, name, (name,), ()), agent.store))
        self.harness.pods.add(name, pod_class)
        return agent

    def agent(self, name: str) -> SimulatedAgent:
        return next(agent for agent in self.agents if agent.name == name)

    def start_agents(self) -> list["asyncio.Task[None]"]:
        return [asyncio.create_task(agent.run(), name=agent.name) for agent in self.agents]

    def _written(self, _: Bundle) -> None:
        for agent in self.agents:
            agent.bundle_written()

    def _report(self, now: int) -> None:
        """Receipts arrive at least every heartbeat, so those of healthy agents are always fresh."""
        for agent in self.agents:
            if agent.proves and agent.proven is not None:
                leaf = agent.in_use.report if agent.in_use else None
                self.harness.pods.prove(agent.name, agent.proven, now, leaf)

    def check(self) -> None:
        """Every leaf in use is valid by every agent's clock, and signed by a CA that every agent trusts."""
        self.checks += 1
        if not self.strict:
            return
        users = [(agent, agent.in_use) for agent in self.agents if agent.in_use is not None and agent.works]
        for agent, mine in users:
            begin, end = not_before(mine.leaf.certificate), not_after(mine.leaf.certificate)
            for peer, theirs in users:
                now = peer.now()
                if not begin <= now <= end:
                    self._problem(f"{agent.name}'s leaf ({begin} to {end}) is not valid for {peer.name} at {now}")
                if mine.issuer not in theirs.bundle.intermediates:
                    self._problem(f"{agent.name}'s leaf is signed by a CA that {peer.name} does not trust")

    def _problem(self, text: str) -> None:
        at = asyncio.get_running_loop().time()
        self.problems.append(f"{at:.1f} s: {text}")

    async def recovery(self, within: float) -> None:
        """Wait until every agent is healthy; raises TimeoutError after ``within`` seconds."""
        async with asyncio.timeout(within):
            while not self.is_well():
                await self.harness.sleep(0.5)

    def is_well(self) -> bool:
        """Whether every working agent uses the newest bundle, and a valid leaf by the CA that signs now."""
        signing = self.harness.journal_store.history.signing
        now = self.harness.now()
        return signing is not None and all(
            agent.in_use is not None
            and agent.in_use.issuer == signing.sha256
            and agent.in_use.bundle.sequence == self.harness.target.sequence
            and not_after(agent.in_use.leaf.certificate) > now
            for agent in self.agents
            if agent.works
        )


def simulate(
    model_of: Callable[[], FleetSimulation], scenario: Callable[[FleetSimulation], Awaitable[None]]
) -> FleetSimulation:
    """Run a scenario in virtual time, from a first start; afterwards nothing may have gone wrong."""

    async def main() -> FleetSimulation:
        model = model_of()
        model.harness.boot()
        agents = model.start_agents()
        await scenario(model)
        model.check()
        for agent in agents:
            assert not agent.done(), agent.exception()
            agent.cancel()
        await asyncio.gather(*agents, return_exceptions=True)
        await model.harness.stop()
        return model

    model = virtual_time.run(main())
    assert model.checks > 0
    assert model.problems == []
    refused = [f"{agent.name}: {error}" for agent in model.agents for error in agent.refusals]
    assert refused == []
    return model


def deployment(preset: str, seed: int = 0) -> Callable[[], FleetSimulation]:
    return lambda: FleetSimulation(AuthorityHarness(timing=PRESETS[preset]), seed)


def epochs_of(model: FleetSimulation, count: float) -> float:
    return count * model.harness.timing.clock.epoch_seconds


def patience(timing: Timing) -> float:
    """The longest time, in seconds, until every workload uses what was written."""
    return 2 * (timing.delivery_seconds + RELOAD_SECONDS) + 5
