"""Clients that a withdrawn CA let in, as a real nats-server shows them."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tidemark.nats
from authority.controllers import connection_monitor
from authority.controllers.connection_monitor import (
    ConnectionMonitor,
    ConnectionScan,
    MonitorError,
    cas_to_look_for,
    read_page,
)
from authority.controllers.context import ControllerContext
from authority.journal.store import JournalStore
from tests.harness.authority.journal_builder import EPOCH, PLAYGROUND, START, TRUST, running
from tests.harness.authority.memory_backends import MemoryJournal
from tests.harness.nats.jetstream_broker import JetStreamBroker
from tests.harness.waiting import eventually
from tidemark.verify import VerifiedBundle

CLIENTS = 5


@pytest.fixture
async def clients(tmp_path: Path, broker: JetStreamBroker) -> AsyncIterator[list[tidemark.nats.Connection]]:
    names = [f"orders-{number}" for number in range(CLIENTS)]
    made = [await tidemark.nats.connect(broker.url, directory=tmp_path / "identity", name=name) for name in names]
    yield made
    for client in made:
        await client.close()


def asking(*servers: str) -> tuple[ConnectionMonitor, list[str]]:
    complaints: list[str] = []
    here = ControllerContext(
        JournalStore(MemoryJournal(), lambda: True), TRUST, PLAYGROUND, lambda: START, lambda _: None
    )
    return ConnectionMonitor(here, servers, lambda server, error: complaints.append(f"{server}: {error}")), complaints


async def test_client_with_certificate_of_withdrawn_ca_is_named(
    broker: JetStreamBroker,
    first_bundle: VerifiedBundle,
    clients: list[tidemark.nats.Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_monitor, "PAGE", 2)
    asked, complaints = asking(broker.monitor)
    ca = first_bundle.statement.anchors[0].sha256
    look = await asked.scan([ca], first_bundle.bundle, START)
    assert complaints == []
    assert sorted(one.name for one in look.connected) == [f"orders-{number}" for number in range(CLIENTS)]
    assert {(one.server, one.subject, one.ca) for one in look.connected} == {(broker.monitor, "CN=localhost", ca)}
    assert all(one.address.startswith("127.0.0.1:") for one in look.connected)
    assert (look.silent, look.errors) == (0, {})
    assert (await asked.scan(["0" * 64], first_bundle.bundle, START)).connected == ()

    await clients.pop().close()

    async def is_gone() -> bool:
        return len((await asked.scan([ca], first_bundle.bundle, START)).connected) == CLIENTS - 1

    await eventually(is_gone, "one connection less")


async def test_a_client_that_sends_no_chain_is_counted(
    tmp_path: Path, broker: JetStreamBroker, first_bundle: VerifiedBundle
) -> None:
    identity = tmp_path / "identity"
    end = "-----END CERTIFICATE-----\n"
    (tmp_path / "alone.crt").write_text((identity / "tls.crt").read_text().partition(end)[0] + end)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # with a CA to verify by, OpenSSL would complete the chain from it
    context.load_cert_chain(tmp_path / "alone.crt", identity / "tls.key")
    async with await nats.connect(broker.url, tls=context):
        asked, _ = asking(broker.monitor)
        look = await asked.scan([first_bundle.statement.anchors[0].sha256], first_bundle.bundle, START)
    assert (look.connected, look.silent) == ((), 1)


async def test_a_server_that_does_not_answer_hides_none_of_the_others(
    broker: JetStreamBroker, first_bundle: VerifiedBundle, clients: list[tidemark.nats.Connection]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{unused.getsockname()[1]}"
    asked, complaints = asking(silent, f"{broker.monitor}/nowhere", broker.monitor)
    look = await asked.scan([first_bundle.statement.anchors[0].sha256], first_bundle.bundle, START)
    assert len(look.connected) == len(clients)
    assert set(look.errors) == {silent, f"{broker.monitor}/nowhere"}
    assert "expected an answer, found Cannot connect" in look.errors[silent]
    assert look.errors[f"{broker.monitor}/nowhere"] == "expected status 200, found 404"
    assert complaints == [f"{server}: {error}" for server, error in look.errors.items()]


async def test_servers_are_asked_while_a_ca_that_was_left_out_has_not_expired(
    broker: JetStreamBroker, clients: list[tidemark.nats.Connection]
) -> None:
    builder, first = running()
    builder.prepare(EPOCH + 1, START + 12)
    assert cas_to_look_for(builder.history, START + 13) == ()
    builder.withdraw(first, START + 13)
    assert cas_to_look_for(builder.history, START + 13) == ()
    bad = builder.remove(first, START + 13)
    assert cas_to_look_for(builder.history, START + 13) == (bad,)
    assert cas_to_look_for(builder.history, bad.not_after) == ()
    journal = MemoryJournal()
    for entry in builder.entries:
        journal.put(entry.record)
    timeline = JournalStore(journal, lambda: True)
    asked = ConnectionMonitor(
        ControllerContext(timeline, TRUST, PLAYGROUND, lambda: START + 13, lambda _: None),
        [broker.monitor],
        lambda *_: None,
    )
    running_look = asyncio.create_task(asked.run())

    async def has_looked() -> ConnectionScan | None:
        return asked.last

    await timeline.read()
    look = await eventually(has_looked, "a look at the servers")
    assert (look.at, look.connected, look.errors) == (START + 13, (), {})  # of another CA
    running_look.cancel()
    await asyncio.gather(running_look, return_exceptions=True)


def answer(*certificates: str, **more: Any) -> bytes:
    certs = [{"subject": "CN=orders", "cert_sha256": sha256} for sha256 in certificates]
    connection = {"cid": 5, "ip": "127.0.0.1", "port": 4, "start": "2026-01-02T03:04:05.6Z", "tls_peer_certs": certs}
    return json.dumps({"total": 1, "connections": [connection | more]}).encode()


BAD = "c" * 64


def test_only_the_chain_above_the_leaf_counts() -> None:
    assert read_page(answer("a" * 64, BAD), "here", [BAD]).connected[0].ca == BAD
    assert read_page(answer(BAD, "a" * 64), "here", [BAD]).connected == ()
    assert read_page(answer(BAD), "here", [BAD]).silent == 1
    assert read_page(answer(), "here", [BAD]).silent == 0
    assert read_page(answer("a" * 64, BAD, name="n" * 900), "here", [BAD]).connected[0].name == "n" * 200


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"total": 1}', answer("a" * 64, BAD, cid="x"), answer("a" * 64, BAD, ip=None)]
)
def test_invalid_answer_of_server_is_an_error(data: bytes) -> None:
    with pytest.raises(MonitorError, match="expected connections as /connz shows them, found"):
        read_page(data, "here", [BAD])


@given(st.binary(max_size=200) | st.just(answer("a" * 64, BAD)).flatmap(lambda d: st.binary().map(lambda b: d + b)))
def test_any_bytes_of_a_server_are_an_answer_or_an_error(data: bytes) -> None:
    with suppress(MonitorError):
        read_page(data, "here", [BAD])
