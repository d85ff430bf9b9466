"""Invariants 1 to 3 over random lives of a deployment: the plan is asked, and done, at every instant that it names."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authority.cli.chain import follow
from authority.fleet.view import FleetView
from authority.journal.record_types import ActivationRecord, Opening
from authority.journal.replay import replay
from authority.rotation.actions import Activate, Compact, Prepare, RemoveAnchors, Retire, SwitchSigner, Wait, Withdraw
from authority.rotation.deadlines import last_resort_at, removal_due_at, ripe_at
from authority.rotation.operator_requests import RotationRefused, force
from authority.rotation.plan import awaited, next_action
from authority.rotation.snapshot import Snapshot
from tests.harness.authority.journal_builder import PLAYGROUND, START, TRUST, JournalBuilder, Pods
from tidemark.bundle import Cause
from tidemark.epoch import EpochClock, Timing, default_leaf_seconds
from tidemark.receipt import PodClass

pytestmark = pytest.mark.long

AGENTS = {"nats-0": PodClass.REQUIRED, "nats-1": PodClass.REQUIRED, "orders": PodClass.APPLICATION}
Script = list[tuple[int, tuple[str, object]]]
"""What happens, each with the seconds since the last."""

MOST_ACTIONS_AT_ONCE = 12


def timing(epoch: int, validity: int, prepare: int) -> Timing:
    clock = EpochClock(epoch, validity, prepare)
    return Timing(clock, tolerance_seconds=1, leaf_seconds=default_leaf_seconds(clock), delivery_seconds=1)


@dataclass
class Life:
    """A deployment that does what its plan says, in no time, and checks each step against the invariants."""

    now: int
    builder: JournalBuilder
    pods: Pods
    ca_ids: set[str] = field(default_factory=set)
    active: str | None = None
    readable: bool = True
    proving: set[str] = field(default_factory=set)
    lapses: bool = False

    @property
    def clock(self) -> EpochClock:
        return self.builder.timing.clock

    def snapshot(self) -> Snapshot:
        fleet = self.pods.view(self.builder, self.now) if self.readable else FleetView(readable=False, agents=())
        return Snapshot(
            self.builder.history, fleet, self.clock, self.now, ca_ids=frozenset(self.ca_ids), active=self.active
        )

    def live(self, until: int) -> None:
        """Do what is asked for until ``until``, jumping from one named instant to the next."""
        while True:
            self.settle()
            action = next_action(self.snapshot())
            assert isinstance(action, Wait)
            assert action.until > self.now, "the plan loops"
            if action.until > until:
                break
            self.now = action.until
            signing = self.builder.history.signing
            assert self.lapses or signing is None or not signing.is_expired(self.now), (
                "the gate outlasted the signing CA"
            )
            assert signing is not None or not self.builder.history.statements, "nobody is left to sign"
        self.now = until

    def settle(self) -> None:
        for _ in range(MOST_ACTIONS_AT_ONCE):
            for name in self.proving:
                if self.builder.history.statements:
                    self.pods.prove(name, self.builder.mark(), self.now)
            action = next_action(self.snapshot())
            match action:
                case Prepare():
                    self.prepare(action)
                case RemoveAnchors():
                    self.check_removal(action)
                    added = action.added.epoch if action.added else None
                    self.ca_ids |= {action.added.ca_id} if action.added else set()
                    self.builder.replace(action.cas, self.now, action.cause, added)
                case Withdraw():
                    raise AssertionError("nobody reverts here")
                case Activate():
                    self.check(action)
                    self.builder.append(
                        ActivationRecord(self.now, action.ca.sha256, action.opening, action.unproven, action.skipped)
                    )
                case SwitchSigner():
                    self.active = action.ca.ca_id
                case Retire():
                    self.ca_ids -= set(action.ca_ids)
                case Compact():
                    rest = [entry for entry in self.builder.entries if entry.position > action.through]
                    self.builder.entries = [*action.keep, *rest]
                    self.builder.history = replay(self.builder.entries)
                    self.check_chain()
                case Wait():
                    return
        raise AssertionError(f"the plan still asks for something after {MOST_ACTIONS_AT_ONCE} actions")

    def prepare(self, action: Prepare) -> None:
        self.ca_ids.add(action.ca_id)
        self.builder.prepare(action.epoch, self.now, action.cause)

    def check(self, action: Activate) -> None:
        """Invariants 1 and 2, from the receipts themselves."""
        history, signing = self.builder.history, self.builder.history.signing
        assert action.ca.may_sign, "a CA is activated that is to be withdrawn"
        if action.opening is Opening.OVERRIDE and any(ca.withdrawal and ca.withdrawal.urgent for ca in history.cas):
            return
        if signing is None or signing.is_expired(self.now):
            was_withdrawn = signing is None and history.activations
            assert action.opening is Opening.BOOTSTRAP or was_withdrawn
            return
        assert action.opening is not Opening.BOOTSTRAP
        proven = {name for name in AGENTS if self.has_proven(name, action.ca.sha256)}
        required = {name for name, pod_class in AGENTS.items() if pod_class is PodClass.REQUIRED}
        match action.opening:
            case Opening.GATE:
                assert self.readable
                assert proven == set(AGENTS)
            case Opening.DEADLINE:
                assert self.readable
                assert required <= proven
                assert self.now >= max(action.ca.start, action.ca.published_at) + self.clock.epoch_seconds
            case Opening.OVERRIDE:
                assert action.ca.sha256 in {override.ca for override in self.builder.history.overrides}
            case Opening.LAST_RESORT:
                assert self.now >= last_resort_at(signing, self.clock)
                assert self.now >= ripe_at(action.ca, signing, self.clock)
        assert set(action.unproven) == (set(AGENTS) - proven if self.readable else set())
        early = self.now < action.ca.start and not action.ca.forced
        if action.ca.sha256 not in self.snapshot().successors:
            assert not early or self.now >= last_resort_at(signing, self.clock)

    def check_removal(self, action: RemoveAnchors) -> None:
        """Nobody says anything about leaves here: what signed stays trusted until its last resort."""
        history, signing = self.builder.history, self.builder.history.signing
        for ca in action.cas:
            assert ca.withdrawal is not None
            if ca.withdrawal.urgent:
                continue
            assert signing is not None
            assert signing.may_sign
            assert ca.withdrawal.cause is Cause.ROLLBACK or signing.published_at >= ca.withdrawal.at
            assert ca.activated_at is None or self.now >= removal_due_at(ca, history, self.clock)

    def check_chain(self) -> None:
        """What the API serves of a folded journal, an auditor can still follow without a gap."""
        held = self.builder.history.statements
        assert follow({f"{signed.statement.sequence}": signed.bundle for signed in held}, TRUST).faults == ()

    def has_proven(self, name: str, sha256: str) -> bool:
        received = self.pods.book.last(name)
        if received is None or received.receipt.proven is None:
            return False
        fresh = self.now - received.at <= self.clock.epoch_seconds // 2 + 2 * max(
            1, min(self.clock.epoch_seconds // 4, 60)
        )
        statements = {signed.digest: signed.statement for signed in self.builder.history.statements}
        statement = statements.get(received.receipt.proven.digest)
        return fresh and statement is not None and sha256 in {anchor.sha256 for anchor in statement.anchors}


def begin(life_timing: Timing) -> Life:
    pods = Pods(clock=life_timing.clock)
    for name, pod_class in AGENTS.items():
        pods.add(name, pod_class, since=START)
    return Life(now=START, builder=JournalBuilder(life_timing), pods=pods)


clocks = st.sampled_from(
    [PLAYGROUND, timing(20, 60, 8), timing(30, 120, 10), timing(12, 48, 10), timing(60, 240, 8), timing(20, 480, 19)]
)
happenings = st.one_of(
    st.tuples(st.just("prove"), st.sets(st.sampled_from(sorted(AGENTS)))),
    st.tuples(st.just("read"), st.booleans()),
    st.tuples(st.just("force"), st.just(None)),
    st.tuples(st.just("override"), st.just(None)),
)
withdrawing = st.one_of(
    happenings,
    st.tuples(
        st.just("withdraw"),
        st.tuples(st.integers(0, 3), st.sampled_from([Cause.ROLLBACK, Cause.REVOCATION]), st.booleans()),
    ),
)
steps_with_withdrawals = st.lists(st.tuples(st.integers(0, 40), withdrawing), max_size=16)
steps = st.lists(st.tuples(st.integers(0, 70), happenings), max_size=12)


def happen(life: Life, what: str, value: object) -> None:
    history = life.builder.history
    match what:
        case "prove":
            assert isinstance(value, set)
            life.proving = value
        case "read":
            life.readable = bool(value)
        case "force":
            try:
                life.prepare(force(life.snapshot(), 1))
            except RotationRefused:
                return
        case "withdraw":
            assert isinstance(value, tuple)
            number, cause, urgent = value
            trusted = [ca for ca in reversed(history.cas) if not ca.is_expired(life.now) and not ca.withdrawn]
            if number < len(trusted):
                life.builder.withdraw(trusted[number], life.now, cause, urgent=urgent)
                life.settle()
        case "override":
            waiting = awaited(life.snapshot())
            if waiting:
                life.builder.override(waiting[-1], life.now)


few = settings(max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@few
@given(clocks, steps)
def test_gate_never_outlasts_signing_ca_with_any_fleet(life_timing: Timing, script: Script) -> None:
    life = begin(life_timing)
    for delay, (what, value) in script:
        life.live(life.now + delay)
        happen(life, what, value)
    life.live(life.now + 2 * life.clock.validity_seconds)


@few
@given(clocks, clocks, steps, st.integers(0, 200))
def test_gate_never_outlasts_signing_ca_when_epoch_length_changes(
    before: Timing, after: Timing, script: Script, when: int
) -> None:
    life = begin(before)
    for delay, (what, value) in script:
        life.live(life.now + delay)
        happen(life, what, value)
    life.live(life.now + when)
    life.builder.timing = after
    life.pods.clock = after.clock
    life.live(life.now + 2 * max(before.clock.validity_seconds, after.clock.validity_seconds))


@few
@given(clocks, steps_with_withdrawals)
def test_after_any_withdrawals_a_ca_signs_that_is_not_withdrawn(life_timing: Timing, script: Script) -> None:
    life = begin(life_timing)
    for delay, (what, value) in script:
        life.live(life.now + delay)
        happen(life, what, value)
    life.live(life.now + 2 * life.clock.validity_seconds)
    signing = life.builder.history.signing
    assert signing is not None
    assert signing.may_sign
    withdrawals = [ca for ca in life.builder.history.cas if ca.withdrawal and not ca.withdrawn]
    assert all(ca.is_expired(life.now) for ca in withdrawals)


@few
@given(clocks, st.integers(1, 2000), st.sets(st.sampled_from(sorted(AGENTS))))
def test_after_any_outage_a_ca_signs_again_at_once(life_timing: Timing, outage: int, proving: set[str]) -> None:
    life = begin(life_timing)
    life.proving = proving
    life.live(life.now + 3 * life.clock.epoch_seconds)
    life.now += outage
    life.lapses = True  # there may be less than P left of the signing CA, and then nothing can take over in time
    life.settle()
    signing = life.builder.history.signing
    assert signing is not None
    assert not signing.is_expired(life.now)
    life.live(life.now + life.clock.prepare_seconds + 1)
    life.lapses = False
    life.live(life.now + life.clock.validity_seconds)
