"""For applications: a nats-py connection that changes its trust without losing a message.

``connect`` is what to use in place of ``nats.connect``; ``tidemark.nats.endpoint`` is how the agent tells it to reload.
"""

from tidemark.nats.connection import Connection, connect
from tidemark.nats.errors import ConnectFailed, OldConnectionBroke, ReloadFailed, SetUnreadable
from tidemark.nats.jetstream import JetStream
from tidemark.nats.subscription import Subscription

__all__ = [
    "ConnectFailed",
    "Connection",
    "JetStream",
    "OldConnectionBroke",
    "ReloadFailed",
    "SetUnreadable",
    "Subscription",
    "connect",
]
