"""``python -m bench.agents``: the agents of a large fleet: each sends one receipt on a TLS connection of its own.

Reads one JSON object from stdin (``Wave``) and writes one to stdout: when each agent began to send (Unix seconds),
after how long it had its answer (seconds), and at which try; like a real agent, it tries again.
"""

import asyncio
import json
import random
import ssl
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.harness.authority.deployment import receipt
from tidemark.verify import Mark

_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Wave:
    """What every agent proves, and over how many seconds they are spread."""

    url: str
    ca: str
    token: str
    agents: list[str]
    seconds: float
    sequence: int
    digest: str
    number: int


async def send(wave: Wave) -> dict[str, list[float]]:
    """Have every agent send its receipt until it is taken."""
    context = ssl.create_default_context(cadata=wave.ca)
    parts = urlsplit(wave.url)
    authority_address = parts.hostname or "", parts.port or 0
    proven = Mark(wave.sequence, wave.digest)
    delays: dict[str, list[float]] = {}

    requests = {agent: _request(agent, proven, wave, parts.netloc) for agent in wave.agents}
    began = time.monotonic() + 0.5

    async def one(agent: str, number: int, at: float) -> None:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        sent, clock, tries = time.time(), time.monotonic(), 1
        while not await _taken(authority_address, _address(number), context, requests[agent]):
            await asyncio.sleep(_PAUSE)
            tries += 1
        delays[agent] = [sent, time.monotonic() - clock, tries]

    async with asyncio.TaskGroup() as group:
        for number, agent in enumerate(wave.agents):
            group.create_task(one(agent, number, random.uniform(0, wave.seconds)))  # noqa: S311 - spreads load
    return delays


def _request(agent: str, proven: Mark, wave: Wave, host: str) -> bytes:
    body = receipt(agent, proven, None, wave.number).to_json()
    head = (
        f"POST /api/v1/receipts HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {wave.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class _Exchange(asyncio.Protocol):
    """One request, and the answer up to the end of the connection."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = b""
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.answered.set_result(self._answer)


def _address(number: int) -> str:
    """One of its own for each agent, as pods have: one address alone has but a share of the authority's places."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


async def _taken(authority_address: tuple[str, int], address: str, context: ssl.SSLContext, request: bytes) -> bool:
    """Whether the authority took the receipt."""
    try:
        _, exchange = await asyncio.get_running_loop().create_connection(
            lambda: _Exchange(request),
            *authority_address,
            ssl=context,
            server_hostname="localhost",
            local_addr=(address, 0),
        )
    except OSError:
        return False
    return (await exchange.answered).startswith(b"HTTP/1.1 200")


if __name__ == "__main__":
    json.dump(asyncio.run(send(Wave(**json.load(sys.stdin)))), sys.stdout)
