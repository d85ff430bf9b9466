"""For applications: a nats-py connection that changes its trust without losing a message.

``connect`` is what to use in place of ``nats.connect``. Ways to tell it of a new set, each one line: the agent calls
``tidemark.nats.endpoint`` (needs aiohttp), or ``reload_on_sighup``, or ``reload_on_change``.
"""

from tidemark.nats.connection import Connection, connect
from tidemark.nats.errors import ConnectFailed, OldConnectionBroke, ReloadFailed, SetUnreadable
from tidemark.nats.jetstream import JetStream
from tidemark.nats.reload import Reloaded
from tidemark.nats.subscription import Subscription
from tidemark.nats.triggers import reload_on_change, reload_on_sighup

__all__ = [
    "ConnectFailed",
    "Connection",
    "JetStream",
    "OldConnectionBroke",
    "ReloadFailed",
    "Reloaded",
    "SetUnreadable",
    "Subscription",
    "connect",
    "reload_on_change",
    "reload_on_sighup",
]
