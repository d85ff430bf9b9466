"""Every step can be repeated (docs/architecture.md, invariant 10), on real files: whatever operation on them is struck,
the end is the same.

Embedded issuer, signer and journal, and directories as targets. Each scenario is lived once undisturbed, which counts
its operations on files; then once for each of them, killed before it (and so after the one before) and started again,
or with an error in its place and no restart.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from authority.fleet.view import FleetView
from authority.issuer.embedded import EmbeddedIssuer, create_root
from authority.issuer.interface import IssuedLeaf, is_ca_id
from authority.journal.directory import DirectoryJournal
from authority.journal.history import History
from authority.journal.record_types import StatementRecord
from authority.journal.replay import replay
from authority.pki.keystore import KeyType
from authority.publishers.directory import DirectoryPublisher
from authority.publishers.leaf_directory import DirectoryLeafStore
from authority.rotation.operator_requests import RotationRefused
from authority.signer.embedded import create_key, open_signer
from authority.support import projected_directory
from tests.harness import virtual_time
from tests.harness.authority.harness import WORKLOAD, AuthorityHarness
from tests.harness.authority.journal_builder import DOMAIN, PLAYGROUND, START
from tests.harness.authority.memory_backends import How, Killed, statement_of
from tests.harness.authority.withdrawal_orders import Order, withdraw
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle, Cause, digest_of
from tidemark.certificates import issued_by
from tidemark.note import parse
from tidemark.trust import Trust

pytestmark = pytest.mark.long

CLOCK = PLAYGROUND.clock
SECOND = CLOCK.epoch_at(START) + 1
CHANGES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown"}


@dataclass
class Files:
    """The operations that change files, in order; that of ``number`` is struck. Whoever is dead changes nothing."""

    number: int | None = None
    how: How = How.KILL
    names: list[str] = field(default_factory=list)
    is_dead: bool = False

    def note(self, event: str, arguments: tuple[object, ...]) -> None:
        """Told of each before it happens (https://docs.python.org/3/library/audit_events.html)."""
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        if self.is_dead:
            raise Killed("dead already")
        self.names.append(f"{event} {arguments[0]}")
        if len(self.names) - 1 == self.number:
            if self.how is How.KILL:
                self.is_dead = True
                raise Killed(self.names[-1])
            raise OSError(5, "struck", self.names[-1])


_watched: list[Files] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watched:
        _watched[-1].note(event, arguments)


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    """For the rest of the process: a hook is never taken away."""
    sys.addaudithook(_hook)


@contextmanager
def watched(files: Files) -> Iterator[None]:
    _watched.append(files)
    try:
        yield
    finally:
        _watched.pop()


@dataclass
class FileHarness(AuthorityHarness):
    """``start`` in place of ``boot``; everything is kept under ``root``."""

    root: Path = field(kw_only=True)
    files: Files = field(default_factory=Files)

    async def start(self) -> None:
        """Start an authority that knows nothing but what lies there."""
        self.files.is_dead = False
        state = self.root / "state"
        signer = open_signer(state, DOMAIN, None)
        verifiers = await signer.verifiers()
        trust = Trust(DOMAIN, verifiers, tolerance_seconds=self.timing.tolerance_seconds)
        self.publishers[:] = [DirectoryPublisher([self.root / "bundle"], trust, self.now)]
        self.workloads[:] = [(WORKLOAD, DirectoryLeafStore(self.root / "leaf", self.now))]
        journal = DirectoryJournal(state / "journal")
        self.boot_on(journal, EmbeddedIssuer(state, KeyType.EC_P256, None), signer, verifiers)

    def view(self, history: History, now: int) -> FleetView:
        """Agents prove what the directories show."""
        self.look()
        return super().view(history, now)

    def look(self) -> None:
        """Take what the directories show for what the agents see."""
        ca, note = (projected_directory.read(self.root / "bundle", name) for name in (CA_FILE, NOTE_FILE))
        if ca is not None and note is not None:
            self.target.bundle = Bundle(ca, note)
            self.target.texts.setdefault(self.target.sequence, set()).add(self.target.digest)
        leaf, key = (projected_directory.read(self.root / "leaf", name) for name in (LEAF_FILE, KEY_FILE))
        if leaf is not None and key is not None:
            self.leaf.leaf = IssuedLeaf(leaf, key)


@dataclass(frozen=True)
class End:
    """What a scenario comes to, in words that do not depend on keys.

    Of an urgent withdrawal it depends on when the receipts come whether proofs or the override open the gate.
    """

    statements: list[tuple[int, int, Cause]]
    activations: list[tuple[str, str]]
    left_out: list[tuple[str, int | None]]
    signing: str
    ca_ids: set[str]


async def end_of(harness: FileHarness) -> End:
    """The end, after checking what must hold however it was reached."""
    harness.look()
    entries = await journal_of(harness).read()
    history = replay(entries)
    newest, signing, leaf = history.newest, history.signing, harness.leaf.certificate
    assert newest is not None
    assert signing is not None
    assert leaf is not None
    held = intents_in(harness.root)
    unretired = {ca.ca_id for ca in history.cas if harness.now() < ca.retire_at}
    assert unretired <= held <= {ca.ca_id for ca in history.cas}, "a CA too few, or one that no statement names"
    assert harness.target.digest == newest.digest
    texts: dict[int, set[str]] = {}
    for entry in entries:
        if isinstance(entry.record, StatementRecord):
            sequence = statement_of(entry.record.bundle).sequence
            texts[sequence] = {digest_of(parse(entry.record.bundle.note).text)}
    assert harness.target.texts.items() <= texts.items(), "a text was shown that the journal does not hold"
    assert issued_by(leaf, signing.certificate)
    ca_ids = {ca.sha256: ca.ca_id for ca in history.cas}
    return End(
        statements=[(s.statement.sequence, s.statement.epoch, s.statement.cause) for s in history.statements],
        activations=[
            (ca_ids[a.ca], a.opening.value.replace("override", "gate")) for a in history.activations if a.ca in ca_ids
        ],
        left_out=[(ca.ca_id, ca.removal.sequence if ca.removal else None) for ca in history.cas if ca.withdrawal],
        signing=signing.ca_id,
        ca_ids=held,
    )


def intents_in(root: Path) -> set[str]:
    """The CAs that are there."""
    return {path.name for path in (root / "state" / "issuer").iterdir() if is_ca_id(path.name)}


async def live(harness: FileHarness, seconds: int, order: Order | None) -> None:
    """Let time pass; whoever dies is started again, and an operator asks for one thing and sees it through."""
    await harness.start()
    request: asyncio.Future[object] | None = None
    stands = order is None
    for half in range(seconds * 2):
        await asyncio.sleep(0.5)
        harness.rotation.wake()  # a receipt has come
        if request is not None and request.done() and order is not None:
            (answer,) = await asyncio.gather(request, return_exceptions=True)
            if isinstance(answer, BaseException) and not isinstance(answer, RotationRefused | asyncio.CancelledError):
                raise answer
            stands, request = order.stands(replay(await journal_of(harness).read())), None
        if await harness.died():
            assert harness.files.is_dead, "an error that ended it"
            await asyncio.sleep(0.5)
            await harness.start()
        elif not stands and request is None and order is not None and half >= 2 * order.at:
            request = asyncio.ensure_future(order.ask(harness.rotation))
    await harness.stop()


def journal_of(harness: FileHarness) -> DirectoryJournal:
    return DirectoryJournal(harness.root / "state" / "journal")


@dataclass(frozen=True)
class World:
    """What is left under ``root`` of an authority that ran until ``now``."""

    root: Path
    now: int

    def run(self, into: Path, seconds: int, order: Order | None, files: Files) -> End:
        """Go on with a copy of it for so long."""
        shutil.copytree(self.root, into, symlinks=True)

        async def main() -> End:
            harness = FileHarness(root=into, began=self.now, files=files)
            with watched(files):
                await live(harness, seconds, order)
            return await end_of(harness)

        return virtual_time.run(main())


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("fresh")
    create_root(root / "state", DOMAIN, KeyType.EC_P256, START, None)
    create_key(root / "state", None)
    (root / "state" / "journal").mkdir()
    return World(root, START)


@pytest.fixture(scope="module")
def second_epoch(fresh: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A second CA has just begun to sign."""
    return lived(fresh, tmp_path_factory.mktemp("second") / "world", 21)


@pytest.fixture(scope="module")
def grown(second_epoch: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Just before a CA is prepared, at whose activation another is retired, and the journal folded."""
    return lived(second_epoch, tmp_path_factory.mktemp("grown") / "world", 12 * 20 - 9 - 21)


def lived(world: World, root: Path, seconds: int) -> World:
    """The world so much later."""
    world.run(root, seconds, None, Files())
    return World(root, world.now + seconds)


def disturb(world: World, tmp_path: Path, seconds: int, order: Order | None, how: How) -> End:
    """The end that every strike leads to."""
    files = Files()
    expected = world.run(tmp_path / "whole", seconds, order, files)
    for number, name in enumerate(files.names):
        copy = tmp_path / f"{number}"
        end = world.run(copy, seconds, order, Files(number, how))
        assert end == expected, f"{how.value} at operation {number}, {name}"
        shutil.rmtree(copy)
    kinds = {name.split()[0] for name in files.names}
    assert kinds >= {"open", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove"}
    return expected


@pytest.mark.parametrize("how", [How.KILL, How.FAIL])
def test_rotation_ends_the_same_after_any_fault(grown: World, tmp_path: Path, how: How) -> None:
    before = intents_in(grown.root)
    end = disturb(grown, tmp_path, 12, None, how)
    assert end.signing == f"epoch-{SECOND + 11}-13"
    assert before - end.ca_ids, "no CA was retired"
    assert end.statements[0][0] > 1, "the journal was not folded"


WITHDRAWALS = {
    "rollback": withdraw(1, Cause.ROLLBACK, "", urgent=False),
    "rollback at once": withdraw(1, Cause.ROLLBACK, "", urgent=True),
    "revocation": withdraw(1, Cause.REVOCATION, str(SECOND), urgent=False),
    "revocation at once": withdraw(1, Cause.REVOCATION, str(SECOND), urgent=True),
}


@pytest.mark.parametrize("how", [How.KILL, How.FAIL])
@pytest.mark.parametrize("name", WITHDRAWALS)
def test_withdrawal_ends_the_same_after_any_fault(second_epoch: World, tmp_path: Path, name: str, how: How) -> None:
    end = disturb(second_epoch, tmp_path, 8, WITHDRAWALS[name], how)
    assert end.left_out == [(f"epoch-{SECOND}-2", end.statements[-1][0])]
