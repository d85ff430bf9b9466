"""Fixtures of the authority's tests."""

from tests.harness.authority.fixtures import empty_space, harness, openbao, space
from tests.harness.contract.issued_bundles import bundles
from tests.harness.kubernetes.fixtures import client, deployment, server
from tests.harness.nats.jetstream_fixtures import broker, first_bundle

__all__ = [
    "broker",
    "bundles",
    "client",
    "deployment",
    "empty_space",
    "first_bundle",
    "harness",
    "openbao",
    "server",
    "space",
]
