"""Fixtures of the tests of ``tidemark.nats``."""

from tests.harness.nats.fixtures import (
    away,
    cluster,
    connection,
    first,
    installer,
    lone,
    member,
    outcomes,
    output,
    peer,
    reporting,
    running,
    second,
    stranger,
)

__all__ = [
    "away",
    "cluster",
    "connection",
    "first",
    "installer",
    "lone",
    "member",
    "outcomes",
    "output",
    "peer",
    "reporting",
    "running",
    "second",
    "stranger",
]
