"""Receipts over the API: which are taken, and what no client can keep out."""

import asyncio
import json
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp
import pytest

from authority.support.log_format import RepeatFilter
from tests.harness.authority.api_calls import mark, refusal, send
from tests.harness.authority.deployment import AuthorityDeployment, ask, receipt
from tidemark.receipt import MAX_BYTES


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "receipt: expected one JSON object, found text that is none"),
        (b"[]", 400, "receipt: document: expected a JSON object, found list"),
        (b'{"pod": "nats-0"}', 400, "receipt: field 'uid': expected a str, found no such field"),
        (b" " * (MAX_BYTES + 1), 413, "Maximum request body size"),
    ],
)
async def test_bad_receipt_is_refused_with_the_reason(
    agent: aiohttp.ClientSession, body: bytes, status: int, sentence: str
) -> None:
    found = await refusal(agent, "POST", "/api/v1/receipts", data=body)
    assert found[0] == status
    assert found[1].startswith(sentence)


async def test_receipt_of_an_unexpected_agent_is_refused(
    deployment: AuthorityDeployment, agent: aiohttp.ClientSession
) -> None:
    stranger = receipt("nats-9", mark(await deployment.bundle("nats-0")), None, 1)
    status, sentence = await refusal(agent, "POST", "/api/v1/receipts", data=stranger.to_json())
    assert status == 403
    assert sentence.startswith("receipt of 'nats-9': expected an agent that the configuration names")


async def test_fleet_has_the_last_receipt_of_each_agent(
    deployment: AuthorityDeployment, reader: aiohttp.ClientSession, agent: aiohttp.ClientSession
) -> None:
    sent = receipt("nats-0", mark(await deployment.bundle("nats-0")), None, 1)
    await send(agent, sent.to_json())
    nats, application = (await ask(reader, "/api/v1/fleet"))["agents"]
    assert (nats["name"], nats["class"], nats["state"], nats["fresh"]) == ("nats-0", "required", "proven", True)
    assert nats["receipt"] == json.loads(sent.to_json())
    assert (application["state"], application["receipt"]) == ("missing", None)


async def test_connection_is_closed_after_a_receipt(
    deployment: AuthorityDeployment, agent: aiohttp.ClientSession
) -> None:
    """Ten thousand agents report once a minute each: every connection that waits for the next would cost memory."""
    body = receipt("nats-0", mark(await deployment.bundle("nats-0")), None, 1).to_json()
    async with agent.post("/api/v1/receipts", data=body) as response:
        assert response.headers["Connection"] == "close"


async def test_pod_that_takes_every_connection_keeps_no_receipt_out(
    deployment: AuthorityDeployment, agent: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    context, where = await deployment.context(), urlsplit(deployment.url)
    hostile: list[asyncio.StreamWriter] = []
    for _ in range(210):  # there are 200 places
        with suppress(OSError):
            _, writer = await asyncio.open_connection(
                where.hostname, where.port, ssl=context, local_addr=("127.0.0.2", 0)
            )
            writer.write(b"P")
            hostile.append(writer)
    proven = mark(await deployment.bundle("nats-0"))
    assert await send(agent, receipt("nats-0", proven, None, 1).to_json()) == {"newest_sequence": 1}
    repeats = RepeatFilter()
    lines = [record for record in caplog.records if record.message == "connection_limit_reached"]
    (line,) = [record for record in lines if repeats.filter(record)]
    assert line.__dict__["fields"] == {"server": "api", "address": "127.0.0.2"}
    assert 0 < len(hostile) <= 50
    for writer in hostile:
        writer.transport.abort()
