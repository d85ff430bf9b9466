"""A replicated stream for a test, and fetches that are tried again while a server is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from tests.harness.waiting import PATIENCE
from tidemark.nats import JetStream

STREAM = api.StreamConfig(name="STREAM", subjects=["s.>"], num_replicas=3, storage=api.StorageType.MEMORY)


@asynccontextmanager
async def stream(jetstream: JetStream) -> AsyncIterator[None]:
    """The stream STREAM inside the block."""
    await jetstream.add_stream(STREAM)
    yield
    await _delete(jetstream, "STREAM")


async def _delete(jetstream: JetStream, name: str) -> None:
    """Ask again where the request was lost, as it is while the cluster elects another leader."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await jetstream.delete_stream(name)
        except nats.js.errors.NotFoundError:
            return
        except nats.errors.TimeoutError:
            assert asyncio.get_running_loop().time() < deadline
        else:
            return


async def fetched(
    puller: JetStreamContext.PullSubscription,
    batch: int = 10,
    timeout: float = 1,  # noqa: ASYNC109 # of each fetch
) -> list[Msg]:
    """As an application fetches: again where a consumer has no leader at the moment (503)."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await puller.fetch(batch, timeout=timeout)
        except (nats.errors.TimeoutError, nats.js.errors.APIError):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)


async def first_of(fetch: "asyncio.Task[list[Msg]]") -> Msg:
    return (await fetch)[0]
