"""The API's answers as JSON."""

import json

from authority.api import views
from authority.fleet.view import ExpectedAgent, FleetView, ReceiptBook, ReceivedReceipt, view
from authority.journal.history import EMPTY
from authority.rotation.snapshot import Snapshot
from tests.harness.authority.deployment import receipt
from tidemark.epoch import PRESETS
from tidemark.receipt import PodClass
from tidemark.verify import Mark

NOW = 1_800_000_000


def test_large_fleet_is_answered_in_small_pieces_of_one_object() -> None:
    clock = PRESETS["testing"].clock
    names = [f"agent-{number}" for number in range(1000)]
    book = ReceiptBook()
    sent = {name: receipt(name, Mark(1, "ab" * 32), None, 1) for name in names[1:]}
    for one in sent.values():
        book.accept(ReceivedReceipt(one, NOW, NOW + 0.25))
    expected = [ExpectedAgent(name, PodClass.REQUIRED, uid="", ready=True, since=NOW) for name in names]
    fleet = view(expected, book, "ab" * 32, clock, NOW)
    pieces = list(views.fleet(Snapshot(EMPTY, fleet, clock, NOW)))
    assert max(piece.count(b'"received_at"') for piece in pieces) <= 32
    answer = json.loads(b"".join(pieces))
    assert (answer["now"], answer["readable"]) == (NOW, True)
    assert [agent["name"] for agent in answer["agents"]] == names
    assert answer["agents"][0] == {
        "name": "agent-0",
        "class": "required",
        "state": "missing",
        "fresh": False,
        "received_at": None,
        "receipt": None,
    }
    assert answer["agents"][1]["received_at"] == NOW + 0.25
    assert [agent["receipt"] for agent in answer["agents"][1:]] == [json.loads(one.to_json()) for one in sent.values()]
    unreadable = views.fleet(Snapshot(EMPTY, FleetView(readable=False, agents=()), clock, NOW))
    assert json.loads(b"".join(unreadable)) == {"now": NOW, "readable": False, "agents": []}
