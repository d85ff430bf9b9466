"""Backends of the authority in memory, behind the production interfaces; each effect on a backend may fail.

A fault before an effect means that the effect never happened; a fault after it, that the effect happened and the answer
was lost. ``KILL`` ends the process there (nothing in the authority catches it), ``FAIL`` is an error as the interface
documents it, ``PAUSE`` stops the process before the effect until the test resumes it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from authority.issuer.interface import CaRequest, IssuedLeaf, IssuerError, IssuerHoldings, LeafRequest
from authority.journal.codec import dump_record, load_record
from authority.journal.interface import JournalConflict, JournalError
from authority.journal.record_types import Entry, Record
from authority.pki import certificates, keystore
from authority.pki.certificates import LeafNames, Validity
from authority.pki.keystore import CaPair
from authority.publishers.interface import PublishError, PublishOutcome, PublishResult, TargetContents
from authority.signer.interface import SignerError
from tests.harness.authority.journal_builder import ROOT, SIGNER, TRUST, make_ca
from tidemark import note
from tidemark.bundle import Bundle, Statement
from tidemark.certificates import Certificate, fingerprint, not_after, parse_certificates, to_pem
from tidemark.note import SignedNote, Signer, Verifier
from tidemark.verify import BundleRejected, VerifiedBundle, reopen

T = TypeVar("T")


class Killed(BaseException):
    """The process ended here."""


class When(Enum):
    BEFORE = "before"
    AFTER = "after"


class How(Enum):
    KILL = "kill"
    FAIL = "fail"
    PAUSE = "pause"


class Strike(NamedTuple):
    """What goes wrong: at the effect of this number (from 0)."""

    number: int
    when: When
    how: How


@dataclass
class Effects:
    """Every effect on the outside, in order; at most one of them is struck."""

    strike: Strike | None = None
    names: list[str] = field(default_factory=list)
    paused: asyncio.Event = field(default_factory=asyncio.Event)
    resumed: asyncio.Event = field(default_factory=asyncio.Event)

    async def arrive(self, name: str) -> None:
        """Called immediately before an effect, when the caller has made its last check."""
        if not self.paused.is_set() and self.pauses(len(self.names), name):
            self.paused.set()
            await self.resumed.wait()

    def pauses(self, number: int, name: str) -> bool:
        """Whether to pause before the effect of this number and name."""
        return self.chosen(number, When.BEFORE, name) is How.PAUSE

    def perform(self, name: str, effect: Callable[[], T], error: type[Exception]) -> T:
        with self.around(name, error):
            return effect()

    @contextmanager
    def around(self, name: str, error: type[Exception]) -> Iterator[None]:
        """For an effect with a duration."""
        number = len(self.names)
        self.names.append(name)
        self._maybe(number, When.BEFORE, error)
        yield
        self._maybe(number, When.AFTER, error)

    def chosen(self, number: int, when: When, name: str) -> How | None:
        """How the effect of this number and name is struck there, if it is."""
        return self.strike.how if self.strike and self.strike[:2] == (number, when) else None

    def _maybe(self, number: int, when: When, error: type[Exception]) -> None:
        name = self.names[number]
        how = self.chosen(number, when, name)
        if how is How.KILL:
            raise Killed(name)
        if how is How.FAIL:
            raise error(f"{name}: struck {when.value} it took effect")


@dataclass
class MemoryJournal:
    effects: Effects = field(default_factory=Effects)
    records: dict[int, Record] = field(default_factory=dict)
    last: int = 0
    is_down: bool = False

    async def read(self) -> tuple[Entry, ...]:
        self._check()
        return tuple(Entry(position, record) for position, record in sorted(self.records.items()))

    async def head(self) -> int:
        self._check()
        return self.last

    async def append(self, position: int, record: Record) -> None:
        self._check()
        await self.effects.arrive("append")
        if position <= self.last:
            raise JournalConflict(f"position {position}: taken")
        if position != self.last + 1:
            raise JournalError(f"position {position}: expected {self.last + 1}")
        await asyncio.sleep(0)
        self.effects.perform(f"append {type(record).__name__}", lambda: self.put(record), JournalError)

    async def compact(self, keep: tuple[Entry, ...], through: int) -> None:
        self._check()
        await self.effects.arrive("fold")

        def replace() -> None:
            rest = {position: record for position, record in self.records.items() if position > through}
            self.records = {entry.position: entry.record for entry in keep} | rest

        self.effects.perform("fold", replace, JournalError)

    def put(self, record: Record) -> None:
        """Append at the head, as another writer might."""
        self.last += 1
        self.records[self.last] = load_record(dump_record(record))

    def _check(self) -> None:
        if self.is_down:
            raise JournalError("journal: down")


@dataclass
class MemoryIssuer:
    effects: Effects = field(default_factory=Effects)
    cas: dict[str, CaPair] = field(default_factory=dict)
    active: str | None = None
    is_down: bool = False
    root: CaPair = ROOT

    async def roots(self) -> tuple[Certificate, ...]:
        self._check()
        return (self.root.certificate,)

    async def issue_ca(self, request: CaRequest) -> Certificate:
        self._check()

        def issue() -> Certificate:
            made = self.cas.get(request.ca_id)
            if made is None or not_after(made.certificate) != request.not_after:
                made = make_ca(request.epoch, request.not_before, request.not_after, self.root)
            self.cas[request.ca_id] = made
            return made.certificate

        await asyncio.sleep(0)
        await self.effects.arrive("issue")
        return self.effects.perform(f"issue {request.ca_id}", issue, IssuerError)

    async def activate(self, ca_id: str) -> None:
        self._check()
        if ca_id not in self.cas:
            raise IssuerError(f"CA {ca_id}: expected it, found none")
        await self.effects.arrive("activate")
        self.effects.perform(f"activate {ca_id}", lambda: setattr(self, "active", ca_id), IssuerError)

    async def issue_leaf(self, ca_id: str, request: LeafRequest) -> IssuedLeaf:
        self._check()
        if ca_id not in self.cas:
            raise IssuerError(f"CA {ca_id}: expected it, found none")
        above = self.cas[ca_id]
        if request.not_after > not_after(above.certificate):
            raise IssuerError("leaf: would outlive its CA")
        key = ec.generate_private_key(ec.SECP256R1())
        names = LeafNames(request.common_name, request.dns_names, request.ip_addresses)
        leaf = certificates.leaf(names, key, Validity(request.not_before, request.not_after), above)
        return IssuedLeaf(to_pem([leaf, above.certificate]), keystore.key_pem(key, None))

    async def holdings(self) -> IssuerHoldings:
        self._check()
        cas = {ca_id: fingerprint(pair.certificate) for ca_id, pair in self.cas.items()}
        return IssuerHoldings(cas, self.active if self.active in self.cas else "")

    async def delete(self, ca_ids: Sequence[str]) -> None:
        self._check()

        def delete() -> None:
            for ca_id in ca_ids:
                self.cas.pop(ca_id, None)

        await self.effects.arrive("delete")
        self.effects.perform(f"delete {' '.join(ca_ids)}", delete, IssuerError)

    def _check(self) -> None:
        if self.is_down:
            raise IssuerError("issuer: down")


@dataclass
class MemorySigner:
    effects: Effects = field(default_factory=Effects)
    signers: tuple[Signer, ...] = (SIGNER,)

    async def verifiers(self) -> tuple[Verifier, ...]:
        return tuple(signer.verifier for signer in self.signers)

    async def sign(self, text: str) -> SignedNote:
        await self.effects.arrive("sign")
        return self.effects.perform("sign", lambda: note.sign(text, self.signers), SignerError)


def statement_of(bundle: Bundle) -> Statement:
    return bundle.unverified_statement()[0]


@dataclass
class MemoryPublisher:
    """One target. ``texts`` has every text that the target ever showed, by sequence."""

    name: str = "memory"
    effects: Effects = field(default_factory=Effects)
    bundle: Bundle | None = None
    is_down: bool = False
    is_hanging: bool = False
    tries: int = 0
    texts: dict[int, set[str]] = field(default_factory=dict)
    on_write: Callable[[Bundle], None] = lambda _: None

    async def publish(self, bundle: VerifiedBundle) -> PublishResult:
        self.tries += 1
        await self._reach()
        if self._compare(bundle) is PublishOutcome.WRITTEN:
            await self.effects.arrive(f"publish to {self.name}")
        if (outcome := self._compare(bundle)) is not PublishOutcome.WRITTEN:
            return PublishResult(newer=(self.name,) if outcome is PublishOutcome.NEWER else ())

        def write() -> None:
            self.bundle = bundle.bundle
            self.texts.setdefault(bundle.sequence, set()).add(bundle.digest)
            self.on_write(bundle.bundle)

        self.effects.perform(f"publish to {self.name}", write, PublishError)
        return PublishResult(written=(self.name,))

    async def read(self) -> tuple[TargetContents, ...]:
        await self._reach()
        return (TargetContents(self.name, self.bundle),)

    def watch(self, changed: asyncio.Event) -> None:
        pass

    def _compare(self, wanted: VerifiedBundle) -> PublishOutcome:
        if self.bundle == wanted.bundle:
            return PublishOutcome.UNCHANGED
        return PublishOutcome.NEWER if self._verified_sequence() > wanted.sequence else PublishOutcome.WRITTEN

    def _verified_sequence(self) -> int:
        try:
            return reopen(self.bundle, TRUST).sequence if self.bundle else 0
        except BundleRejected:
            return 0

    async def _reach(self) -> None:
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.is_down:
            raise PublishError(f"{self.name}: down")

    @property
    def sequence(self) -> int:
        return statement_of(self.bundle).sequence if self.bundle else 0

    @property
    def digest(self) -> str:
        return self.bundle.unverified_statement()[1] if self.bundle else ""


@dataclass
class MemoryLeafStore:
    name: str = "secrets/nats-0"
    effects: Effects = field(default_factory=Effects)
    leaf: IssuedLeaf | None = None
    is_down: bool = False
    written: int = 0
    on_write: Callable[[IssuedLeaf], None] = lambda _: None

    async def read(self) -> bytes | None:
        if self.is_down:
            raise PublishError(f"{self.name}: down")
        return self.leaf.certificate_pem if self.leaf else None

    async def write(self, leaf: IssuedLeaf) -> None:
        if self.is_down:
            raise PublishError(f"{self.name}: down")

        def put() -> None:
            self.leaf = leaf
            self.written += 1
            self.on_write(leaf)

        await self.effects.arrive(f"write leaf to {self.name}")
        self.effects.perform(f"write leaf to {self.name}", put, PublishError)

    @property
    def certificate(self) -> Certificate | None:
        return parse_certificates(self.leaf.certificate_pem)[0] if self.leaf else None
