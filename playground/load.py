"""What the two load applications share: arguments, state file, stop signal, connection, stream, format of a message.

A message's payload is ``<run> <number> <sent>``: ASCII, the number counting from 1 per kind, ``sent`` the publisher's
``time.monotonic_ns`` (one clock for all processes of a Linux machine).
"""

import argparse
import asyncio
import gc
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
from nats.js import api

import tidemark.nats
from tidemark.nats import Connection, JetStream

CORE_SUBJECT = "playground.core"
JETSTREAM_SUBJECT = "playground.js"
READY_SUBJECT = "playground.ready"
"""Requested by the publisher with its run as payload; answered by the consumer once it receives."""
STREAM = api.StreamConfig(
    name="PLAYGROUND",
    subjects=[JETSTREAM_SUBJECT],
    num_replicas=3,
    storage=api.StorageType.MEMORY,
    discard=api.DiscardPolicy.OLD,
    max_age=120,
    max_bytes=64 * 1024 * 1024,
    duplicate_window=60,
)

_START_SECONDS = 60.0
_RETRY_SECONDS = 0.2
_STATE_SECONDS = 0.25


def arguments(description: str) -> argparse.ArgumentParser:
    """The arguments that both take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--directory", type=Path, required=True, help="the agent's output directory")
    parser.add_argument("--servers", required=True, help="NATS URLs, separated by commas")
    parser.add_argument("--reload-port", type=int, required=True, help="port of 127.0.0.1 for POST /-/reload")
    parser.add_argument("--state", type=Path, required=True, help="where to write the counts, as JSON")
    return parser


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT; before it is called, these end the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def connected(directory: Path, servers: str, name: str) -> Connection:
    """A connection, waiting a minute for the agent's first set and for a server that accepts the connection."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _START_SECONDS
    while True:
        try:
            return await tidemark.nats.connect(servers.split(","), directory=directory, name=name)
        except (tidemark.nats.SetUnreadable, tidemark.nats.ConnectFailed):
            if loop.time() > until:
                raise
            await asyncio.sleep(_RETRY_SECONDS)


async def make_stream(jetstream: JetStream) -> None:
    """Create the stream, or find it there; waits a minute for the cluster to be able to."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _START_SECONDS
    while True:
        try:
            await jetstream.add_stream(STREAM)
        except (nats.errors.TimeoutError, nats.js.errors.APIError):
            if loop.time() > until:
                raise
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


class CountedReloads:
    """Implements ``Reloadable`` and counts how often the connection moved to another set."""

    def __init__(self, connection: Connection, begins: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._begins = begins
        self.count = 0

    @property
    def ca_sha256(self) -> str:
        """See ``Connection``."""
        return self._connection.ca_sha256

    @property
    def leaf_sha256(self) -> str:
        """See ``Connection``."""
        return self._connection.leaf_sha256

    async def reload(self) -> None:
        """See ``Connection``."""
        self._begins()
        before = self.ca_sha256, self.leaf_sha256
        await self._connection.reload()
        self.count += before != (self.ca_sha256, self.leaf_sha256)


class StateFile:
    """Counts, for other processes to read: always a whole JSON object, replaced every quarter of a second."""

    def __init__(self, path: Path, state: Callable[[], Mapping[str, Any]]) -> None:
        self._path = path
        self._state = state

    def write(self, *, finished: bool) -> None:
        """Replace the file now."""
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        tasks = len(asyncio.all_tasks())
        temporary.write_text(json.dumps({**self._state(), "tasks": tasks, "finished": finished}))
        temporary.replace(self._path)

    async def keep(self) -> None:
        """Replace the file again and again, until cancelled."""
        while True:
            self.write(finished=False)
            await asyncio.sleep(_STATE_SECONDS)


def read_state(path: Path) -> dict[str, Any]:
    """The other application's counts; empty where it has written none."""
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return state if isinstance(state, dict) else {}


def settle_memory() -> None:
    """Exclude the objects made at start-up from garbage collection, so that its pauses stay short."""
    gc.collect()
    gc.freeze()
