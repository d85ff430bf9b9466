"""Fixtures of the agent's tests."""

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

__all__ = ["agent_process", "broker", "factory", "http", "nats_server", "open_folder", "sandbox", "server", "serving"]
