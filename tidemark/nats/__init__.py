"""For applications: a nats-py connection that changes its trust without losing a message.

``connect`` replaces ``nats.connect``. A new set is noticed in one of three ways, each one line of code:
``tidemark.nats.endpoint`` (the agent calls it; needs aiohttp), ``reload_on_sighup`` or ``reload_on_change``.
This package imports the rest of ``tidemark``, nats-py and, in modules of their own, aiohttp and prometheus_client.
"""

from tidemark.nats.connection import Connection, connect
from tidemark.nats.errors import ConnectFailed, OldConnectionBroke, ReloadFailed, SetUnreadable
from tidemark.nats.jetstream import JetStream
from tidemark.nats.reload_report import Reloaded
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
