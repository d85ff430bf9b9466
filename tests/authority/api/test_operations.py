"""What the API's answers rest on: tokens, the ledger of proofs, and events as lines."""

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from authority.api import views
from authority.api.tokens import TokenHolder, TokenRole, create_token, read_token, read_tokens
from authority.api.views import Situation
from authority.fleet.proof_times import STATEMENTS, ProofTimes
from authority.fleet.view import ExpectedAgent, FleetView, ReceiptBook, ReceivedReceipt, view
from authority.journal.history import EMPTY, SignedStatement
from authority.observability.event_log import KEPT, EventLog, event_fields
from authority.pki.keystore import KeystoreError
from authority.rotation.actions import Step
from authority.rotation.events import Failed, Held, Retired, Withdrawing
from authority.rotation.gate import ClosedReason
from authority.rotation.withdrawal import WithdrawalStage
from authority.support.log_format import JsonLines, TextLines
from tests.harness.authority.deployment import eventually, receipt
from tests.harness.contract.issued_bundles import IssuedBundles
from tidemark.certificates import parse_leaf
from tidemark.epoch import PRESETS
from tidemark.receipt import PodClass
from tidemark.verify import Mark, VerifiedBundle

NOW = 1_800_000_000


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    for role in TokenRole:
        create_token(tmp_path, role)
    return tmp_path


def test_tokens_are_made_once_and_found_again(tokens: Path) -> None:
    known = read_tokens(tokens)
    agent, operator = (read_token(tokens / "tokens" / role) for role in TokenRole)
    assert agent != operator
    assert known.holder_of(agent) == TokenHolder("agent", TokenRole.AGENT)
    assert known.holder_of(operator) == TokenHolder("operator", TokenRole.OPERATOR)
    for wrong in ("", agent[:-1], agent + "x", agent.swapcase(), "\udcff"):
        assert known.holder_of(wrong) is None
    assert create_token(tokens, TokenRole.AGENT) is None
    assert read_token(tokens / "tokens" / "agent") == agent
    assert agent not in repr(known)


def test_operators_may_have_names_of_their_own(tokens: Path) -> None:
    (tokens / "tokens" / "operator-alice").write_text("a" * 40)
    assert read_tokens(tokens).holder_of("a" * 40) == TokenHolder("operator-alice", TokenRole.OPERATOR)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("operator", b"", r"operator: expected a token of at least 32 ASCII characters, found 0"),
        ("agent", b"short", r"agent: expected a token of at least 32 ASCII characters, found 5"),
        ("agent", b"\xff" * 40, r"agent: expected a readable token, found bytes that are no text"),
        ("guest", b"a" * 40, r"guest: expected a file named 'agent', 'operator' or 'operator-<name>'"),
    ],
)
def test_a_token_that_is_none(tokens: Path, name: str, content: bytes, complaint: str) -> None:
    (tokens / "tokens" / name).write_bytes(content)
    with pytest.raises(KeystoreError, match=complaint) as caught:
        read_tokens(tokens)
    assert "short" not in str(caught.value)


async def test_tokens_that_come_and_go_count_at_once_and_one_that_is_none_takes_no_other_away(tokens: Path) -> None:
    known, failures = read_tokens(tokens), list[KeystoreError]()
    alice = tokens / "tokens" / "operator-alice"
    reading = asyncio.create_task(known.keep_current(tokens, failures.append, look_seconds=0.01))

    async def who() -> TokenHolder | None:
        return known.holder_of("a" * 40)

    async def told() -> list[KeystoreError]:
        return failures

    async def is_nobodys() -> bool:
        return await who() is None

    alice.write_text("a" * 40)
    assert await eventually(who, "alice") == TokenHolder("operator-alice", TokenRole.OPERATOR)
    alice.write_text("short")
    await eventually(told, "a complaint")
    assert await who() is not None
    for path in (alice, tokens / "tokens" / "operator"):
        path.unlink()
    await eventually(is_nobodys, "that nobody is alice")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


def test_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match=r"expected a token of agents and one of operators; run 'init' first"):
        read_tokens(tmp_path)


def signed(verified: VerifiedBundle) -> SignedStatement:
    return SignedStatement(
        position=verified.sequence,
        at=NOW,
        intent="",
        bundle=verified.bundle,
        statement=verified.statement,
        digest=verified.digest,
        certificates=verified.certificates,
    )


def mark(verified: VerifiedBundle) -> Mark:
    return Mark(verified.sequence, verified.digest)


async def test_the_first_proof_of_each_agent_counts(tmp_path: Path) -> None:
    foundry = await IssuedBundles.create(tmp_path, NOW)
    bundle = await foundry.bundle(1)
    issued = await foundry.leaf(bundle)
    leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    ledger = ProofTimes()
    ledger.follow([signed(bundle)])
    ledger.publishing(bundle.digest, 9.0)
    assert ledger.proofs(bundle.digest).published_at is None  # who knows who wrote it first
    ledger.committed(bundle.digest)
    ledger.publishing(bundle.digest, 10.5)
    ledger.publishing(bundle.digest, 11.5)
    ledger.received(receipt("nats-0", mark(bundle), None, 1), 12.25)
    ledger.received(receipt("nats-0", mark(bundle), leaf, 2), 13.25)
    ledger.received(receipt("nats-0", mark(bundle), leaf, 3), 14.25)
    ledger.received(receipt("nats-1", Mark(1, "0" * 64), leaf, 1), 12.0)  # proves another statement
    proofs = ledger.proofs(bundle.digest)
    assert proofs.published_at == 10.5
    assert proofs.proven == {"nats-0": 12.25}
    assert proofs.leaf_proven == {"nats-0": 13.25}


async def test_a_leaf_counts_for_the_statement_that_its_ca_came_with(tmp_path: Path) -> None:
    foundry = await IssuedBundles.create(tmp_path, NOW)
    first, second = await foundry.bundle(1), await foundry.bundle(2)
    issued = await foundry.leaf(first)
    leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    ledger = ProofTimes()
    ledger.follow([signed(first), signed(second)])
    ledger.received(receipt("nats-0", mark(second), leaf, 1), 5.0)  # whose CA the second statement does not contain
    assert ledger.proofs(second.digest).proven == {"nats-0": 5.0}
    assert ledger.proofs(first.digest).leaf_proven == ledger.proofs(second.digest).leaf_proven == {}
    ledger.received(receipt("nats-0", mark(first), leaf, 2), 6.0)
    assert ledger.proofs(first.digest).leaf_proven == {"nats-0": 6.0}
    assert ledger.proofs(second.digest).leaf_proven == {}


async def test_the_ledger_forgets_what_is_old(tmp_path: Path) -> None:
    foundry = await IssuedBundles.create(tmp_path, NOW)
    bundles = [await foundry.bundle(number) for number in range(1, STATEMENTS + 2)]
    ledger = ProofTimes()
    for count in range(1, len(bundles) + 1):
        ledger.follow([signed(bundle) for bundle in bundles[:count]])
        ledger.received(receipt("nats-0", mark(bundles[count - 1]), None, count), float(count))
    assert ledger.proofs(bundles[0].digest).proven == {}
    assert [ledger.proofs(bundle.digest).proven for bundle in bundles[1:]] == [
        {"nats-0": float(number)} for number in range(2, STATEMENTS + 2)
    ]


HELD = Held(NOW, 7, "ab" * 32, NOW - 5, NOW + 5, ClosedReason.WAITING, ("nats-0", "nats-1"))


def failed(error: str, at: int = NOW) -> Failed:
    return Failed(at, Step.PUBLISH, "jetstream", error, 0.5)


def test_events_are_numbered_and_the_last_are_kept() -> None:
    chronicle = EventLog()
    for at in range(KEPT + 5):
        chronicle.observe(Retired(at, ("epoch-1-1",), orphans=False))
    last = chronicle.last()
    assert [event["number"] for event in last] == list(range(6, KEPT + 6))
    assert last[0] == {"number": 6, "event": "retired", "at": 5, "intents": ["epoch-1-1"], "orphans": False}
    json.dumps(last)


def test_a_failure_that_stays_is_told_once_a_minute() -> None:
    chronicle = EventLog()
    for failure in (failed("away"), failed("away", NOW + 59), failed("asleep", NOW + 59), failed("away", NOW + 60)):
        chronicle.observe(failure)
    chronicle.observe(failed("away", NOW + 119))
    chronicle.observe(failed("away", NOW + 120))
    assert [(event["error"], event["at"] - NOW) for event in chronicle.last()] == [
        ("away", 0),
        ("asleep", 59),
        ("away", 60),
        ("away", 120),
    ]


def test_lines_for_people_and_for_programs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "authority"):
        EventLog().observe(HELD)
        EventLog().observe(failed("not there"))
    held, failure = caplog.records
    assert TextLines().format(held).partition("Z ")[2] == (
        f"WARNING held epoch=7 ca={'ab' * 32} since={NOW - 5} until={NOW + 5} closed=waiting waiting=nats-0,nats-1"
    )
    assert TextLines().format(failure).endswith('target=jetstream error="not there" retry_in=0.500')
    with caplog.at_level(logging.INFO, "authority"):
        for stage in (WithdrawalStage.REISSUING, WithdrawalStage.DONE):
            EventLog().observe(Withdrawing(NOW, 7, "ab" * 32, stage, "cd" * 32, ("nats-0",), NOW + 5))
    assert [record.levelname for record in caplog.records[2:]] == ["WARNING", "INFO"]
    line = json.loads(JsonLines().format(held))
    assert (line["level"], line["event"], line["waiting"]) == ("WARNING", "held", ["nats-0", "nats-1"])
    assert event_fields(HELD)["event"] == "held"


def test_a_long_list_of_agents_is_cut_in_events() -> None:
    names = tuple(f"agent-{number}" for number in range(10_000))
    assert event_fields(replace(HELD, waiting=names))["waiting"] == [*names[:20], "and 9980 more"]
    assert event_fields(replace(HELD, waiting=names[:20]))["waiting"] == list(names[:20])


def test_a_large_fleet_is_told_in_pieces_that_are_one_object(tmp_path: Path) -> None:
    """None of which takes long: whatever else is due comes in between."""
    clock = PRESETS["testing"].clock
    names = [f"agent-{number}" for number in range(1000)]
    book = ReceiptBook()
    sent = {name: receipt(name, Mark(1, "ab" * 32), None, 1) for name in names[1:]}
    for one in sent.values():
        book.accept(ReceivedReceipt(one, NOW, NOW + 0.25))
    expected = [ExpectedAgent(name, PodClass.REQUIRED, uid="", ready=True, since=NOW) for name in names]
    fleet = view(expected, book, "ab" * 32, clock, NOW)
    pieces = list(views.fleet(Situation(NOW, "bus.example.com", clock, EMPTY, fleet, None)))
    assert max(piece.count(b'"received_at"') for piece in pieces) <= 32
    told = json.loads(b"".join(pieces))
    assert (told["now"], told["readable"]) == (NOW, True)
    assert [agent["name"] for agent in told["agents"]] == names
    assert told["agents"][0] == {
        "name": "agent-0",
        "class": "required",
        "state": "missing",
        "fresh": False,
        "received_at": None,
        "receipt": None,
    }
    assert told["agents"][1]["received_at"] == NOW + 0.25
    assert [agent["receipt"] for agent in told["agents"][1:]] == [json.loads(one.to_json()) for one in sent.values()]
    nobody = views.fleet(Situation(NOW, "bus.example.com", clock, EMPTY, FleetView(readable=False, agents=()), None))
    assert json.loads(b"".join(nobody)) == {"now": NOW, "readable": False, "agents": []}
