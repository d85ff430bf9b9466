"""Builds journals and fleets for tests in a few lines, with real certificates, keys and signatures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from authority.fleet.view import ExpectedAgent, FleetView, ReceiptBook, ReceivedReceipt, view
from authority.journal.history import EMPTY, EpochCa, History
from authority.journal.record_types import (
    ActivationRecord,
    Entry,
    Opening,
    OverrideRecord,
    Record,
    StatementRecord,
    WithdrawalRecord,
)
from authority.journal.replay import replay
from authority.pki import certificates
from authority.pki.certificates import CaName, Validity
from authority.pki.keystore import CaPair
from authority.rotation.compose import BundleMember, StatementContents, compose, still_withdrawn, surviving
from authority.rotation.snapshot import Snapshot
from tidemark import note
from tidemark.bundle import Bundle, Cause
from tidemark.certificates import Certificate, fingerprint
from tidemark.epoch import PRESETS, EpochClock, Timing
from tidemark.note import Signer
from tidemark.receipt import AgentState, Failure, LeafReport, Level, PodClass, Receipt, TargetReport
from tidemark.trust import Trust
from tidemark.verify import Mark

DOMAIN = "bus.example.com"
PLAYGROUND = PRESETS["playground"]
DAY = 86400
EPOCH = 90_000_000  # some epoch of the playground's clock
START = PLAYGROUND.clock.start(EPOCH)

SIGNER = Signer.generate(f"{DOMAIN}/a")
TRUST = Trust(DOMAIN, (SIGNER.verifier,), tolerance_seconds=PLAYGROUND.tolerance_seconds)
ROOT = certificates.root(
    CaName(DOMAIN, "root"), ec.generate_private_key(ec.SECP256R1()), Validity(0, START + 7300 * DAY), path_length=1
)


def make_ca(epoch: int, not_before: int, not_after: int, root: CaPair = ROOT) -> CaPair:
    """A CA as an issuer creates it."""
    key = ec.generate_private_key(ec.SECP256R1())
    return certificates.intermediate(
        CaName(DOMAIN, f"intermediate epoch {epoch}"), key, Validity(not_before, not_after), root
    )


@dataclass
class JournalBuilder:
    """A journal that grows step by step; each step has its time."""

    timing: Timing = PLAYGROUND
    signer: Signer = SIGNER
    roots: tuple[Certificate, ...] = (ROOT.certificate,)
    entries: list[Entry] = field(default_factory=list)
    history: History = EMPTY

    @property
    def clock(self) -> EpochClock:
        return self.timing.clock

    def append(self, record: Record) -> None:
        self.entries.append(Entry(self.history.head + 1, record))
        self.history = replay(self.entries)

    def prepare(self, epoch: int, at: int, cause: Cause = Cause.ROTATION) -> EpochCa:
        """A CA of ``epoch`` under the present clock, in a statement committed at ``at``."""
        pair = make_ca(epoch, at - self.timing.tolerance_seconds, self.clock.expiry(epoch))
        members = (BundleMember(epoch, pair.certificate), *surviving(self.history, at))
        withdrawn = still_withdrawn(self.history, at)
        self._state(
            StatementContents(cause, self.clock, members, self.roots, withdrawn), at, self.history.ca_id_for(epoch)
        )
        return self.history.cas[-1]

    def withdraw(
        self, ca: EpochCa, at: int, cause: Cause = Cause.ROLLBACK, *, urgent: bool = False, automatic: bool = False
    ) -> EpochCa:
        """Asked for; the CA as it is from then on."""
        self.append(WithdrawalRecord(at, ca.sha256, cause, urgent, automatic, "ada", "it may have leaked"))
        found = self.history.find(ca.sha256)
        assert found is not None
        return found

    def remove(self, ca: EpochCa, at: int, cause: Cause = Cause.ROLLBACK) -> EpochCa:
        """Commit a statement without the CA; returns the withdrawn CA."""
        self.replace([ca], at, cause, None)
        found = self.history.find(ca.sha256)
        assert found is not None
        return found

    def replace(self, cas: Sequence[EpochCa], at: int, cause: Cause, added: int | None) -> None:
        """Commit a statement without these CAs and with a new CA of the epoch ``added``."""
        without = [ca.sha256 for ca in cas]
        members, ca_id = surviving(self.history, at, without), ""
        if added is not None:
            pair = make_ca(added, at - self.timing.tolerance_seconds, self.clock.expiry(added))
            members, ca_id = (BundleMember(added, pair.certificate), *members), self.history.ca_id_for(added)
        withdrawn = still_withdrawn(self.history, at, without)
        self._state(StatementContents(cause, self.clock, members, self.roots, withdrawn), at, ca_id)

    def _state(self, contents: StatementContents, at: int, ca_id: str) -> None:
        draft = compose(DOMAIN, contents, self.history.newest, at)
        bundle = Bundle(draft.ca, bytes(note.sign(draft.statement.text(), [self.signer])))
        self.append(StatementRecord(at, ca_id, bundle))

    def activate(self, ca: EpochCa, at: int, skipped: tuple[EpochCa, ...] = ()) -> None:
        self.append(ActivationRecord(at, ca.sha256, Opening.GATE, (), tuple(ca.sha256 for ca in skipped)))

    def override(self, ca: EpochCa, at: int) -> None:
        self.append(OverrideRecord(at, ca.sha256, "ada", "the last agent is being repaired"))

    def mark(self, sequence: int | None = None) -> Mark:
        """The statement with this sequence, or the newest."""
        statements = self.history.statements
        signed = next((s for s in statements if s.statement.sequence == sequence), statements[-1])
        return Mark(signed.statement.sequence, signed.digest)


def running(timing: Timing = PLAYGROUND) -> tuple[JournalBuilder, EpochCa]:
    """A deployment whose CA of ``EPOCH`` has signed since that epoch's start; also that CA."""
    builder = JournalBuilder(timing)
    epoch = timing.clock.epoch_at(START)
    start = timing.clock.start(epoch)
    ca = builder.prepare(epoch, start - timing.clock.prepare_seconds)
    builder.activate(ca, start)
    return builder, ca


def rotated() -> tuple[JournalBuilder, EpochCa, EpochCa]:
    """A deployment in its second epoch: the CA before, and the CA that signs."""
    builder, _ = running()
    builder.activate(
        builder.prepare(EPOCH + 1, PLAYGROUND.clock.prepare_at(EPOCH + 1)), PLAYGROUND.clock.start(EPOCH + 1)
    )
    first, second = builder.history.cas
    return builder, first, second


def revoked() -> tuple[JournalBuilder, EpochCa, EpochCa]:
    """A revoked CA, and the CA that signs in its place since 10 s after the epoch's start."""
    builder, withdrawn_ca = running()
    builder.withdraw(withdrawn_ca, START + 5, Cause.REVOCATION)
    new = builder.prepare(EPOCH, START + 6, Cause.FORCED)
    builder.activate(new, START + 10)
    return builder, withdrawn_ca, new


def receipt(
    pod: str,
    proven: Mark | None = None,
    installed: Mark | None = None,
    *,
    uid: str = "",
    nonce: str = "start",
    number: int = 1,
    state: AgentState = AgentState.PROVEN,
    leaf: LeafReport | None = None,
    reverted: Mark | None = None,
    failure: Failure | None = None,
) -> Receipt:
    """The receipt of an agent; by default its newest installed set is the proven set."""
    installed = installed or proven
    return Receipt(
        pod=pod,
        uid=uid,
        nonce=nonce,
        number=number,
        version="0",
        pod_class=PodClass.REQUIRED,
        state=state,
        targets=(TargetReport("signal:?process=nats-server", Level.PROVEN, Level.PROVEN),),
        highest=installed,
        installed=installed,
        proven=proven,
        reverted=reverted,
        leaf=leaf,
        failure=failure,
        stages={},
        keys=(),
        clock=0,
    )


@dataclass
class Pods:
    """The expected agents and what they reported."""

    clock: EpochClock = PLAYGROUND.clock
    expected: list[ExpectedAgent] = field(default_factory=list)
    book: ReceiptBook = field(default_factory=ReceiptBook)
    numbers: int = 0

    def add(self, name: str, pod_class: PodClass = PodClass.REQUIRED, *, ready: bool = True, since: int = 0) -> None:
        self.expected.append(ExpectedAgent(name, pod_class, "", ready, since))

    def prove(self, name: str, proven: Mark | None, at: int, leaf: LeafReport | None = None) -> None:
        self.numbers += 1
        self.book.accept(ReceivedReceipt(receipt(name, proven, number=self.numbers, leaf=leaf), at, float(at)))

    def revert(self, name: str, refused: Mark, proven: Mark, at: int, reason: str = "not_proven") -> None:
        """The agent has put ``refused`` back and proven ``proven``."""
        self.numbers += 1
        failure = Failure(reason, "the server did not show it", at, refused.sequence, refused.digest)
        report = receipt(
            name, proven, number=self.numbers, state=AgentState.REVERTED, reverted=refused, failure=failure
        )
        self.book.accept(ReceivedReceipt(report, at, float(at)))

    def view(self, builder: JournalBuilder, now: int) -> FleetView:
        newest = builder.history.newest
        return self.view_of(newest.digest if newest else "", now)

    def view_of(self, newest_digest: str, now: int) -> FleetView:
        return view(self.expected, self.book, newest_digest, self.clock, now)


def leaf_of(ca: EpochCa | CaPair, not_before: int, not_after: int = START + 7300 * DAY) -> LeafReport:
    """What a receipt says about a leaf that ``ca`` signed."""
    sha256 = ca.sha256 if isinstance(ca, EpochCa) else fingerprint(ca.certificate)
    return LeafReport("f" * 64, "CN=intermediate", sha256, "1", not_before, not_after)


def snapshot(builder: "JournalBuilder", fleet: FleetView, now: int, clock: EpochClock | None = None) -> Snapshot:
    """The deployment at ``now``, with an issuer that holds every CA and signs with the one activated last."""
    history = builder.history
    return Snapshot(
        history=history,
        fleet=fleet,
        clock=clock or builder.clock,
        now=now,
        tolerance_seconds=builder.timing.tolerance_seconds,
        ca_ids=frozenset(ca.ca_id for ca in history.cas if ca.ca_id),
        active=history.signing.ca_id if history.signing else None,
    )


def servers(*names: str) -> Pods:
    """A fleet of required agents that have not reported yet."""
    pods = Pods()
    for name in names:
        pods.add(name)
    return pods
