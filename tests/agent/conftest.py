"""Fixtures of the agent's tests."""

from tests.harness.agent_fixtures import (
    agent_process,
    broker,
    forge,
    http,
    nats_server,
    open_folder,
    server,
    serving,
    site,
)

__all__ = ["agent_process", "broker", "forge", "http", "nats_server", "open_folder", "server", "serving", "site"]
