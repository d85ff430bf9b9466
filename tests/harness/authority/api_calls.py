"""The API of a whole authority in this process: its clock, and what tests send."""

import time
from typing import Any

import aiohttp

from tidemark.verify import Mark, VerifiedBundle

EPOCH = 1200  # seconds, of the preset "testing"


EARLY = 60 - time.time() % EPOCH  # makes it a minute past the start of the epoch, so that nothing is due meanwhile


def clock() -> float:
    return time.time() + EARLY


async def refusal(session: aiohttp.ClientSession, method: str, path: str, **what: Any) -> tuple[int, str]:
    async with session.request(method, path, **what) as response:
        return response.status, (await response.json())["error"]


async def send(session: aiohttp.ClientSession, data: bytes) -> Any:
    async with session.post("/api/v1/receipts", data=data) as response:
        response.raise_for_status()
        return await response.json()


def mark(bundle: VerifiedBundle) -> Mark:
    return Mark(bundle.sequence, bundle.digest)
