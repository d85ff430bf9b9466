"""Fixtures of the tests of ``tidemark.nats``."""

from tests.harness.nats.fixtures import (
    cluster,
    connection,
    first,
    lone,
    outcomes,
    output,
    reporting,
    running,
    second,
    stranger,
)

__all__ = ["cluster", "connection", "first", "lone", "outcomes", "output", "reporting", "running", "second", "stranger"]
