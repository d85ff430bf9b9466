"""Fixtures of the end-to-end tests."""

from tests.harness.agent.fixtures import (
    agent_process,
    broker,
    factory,
    http,
    nats_server,
    open_folder,
    sandbox,
    server,
    serving,
)
from tests.harness.authority.fixtures import empty_space, harness, openbao, space
from tests.harness.nats.fixtures import cluster, connection, first, lone, output, running, second, stranger

__all__ = [
    "agent_process",
    "broker",
    "cluster",
    "connection",
    "empty_space",
    "factory",
    "first",
    "harness",
    "http",
    "lone",
    "nats_server",
    "open_folder",
    "openbao",
    "output",
    "running",
    "sandbox",
    "second",
    "server",
    "serving",
    "space",
    "stranger",
]
