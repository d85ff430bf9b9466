"""Fixtures of the end-to-end tests on the fake API server."""

from tests.harness.kubernetes.fixtures import client, deployment, server

__all__ = ["client", "deployment", "server"]
