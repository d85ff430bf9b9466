"""Fixtures of the authority's tests."""

from tests.harness.authority.fixtures import empty_space, harness, openbao, space
from tests.harness.kubernetes.fixtures import client, deployment, server

__all__ = ["client", "deployment", "empty_space", "harness", "openbao", "server", "space"]
