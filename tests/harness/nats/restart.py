"""Restarts servers of a cluster."""

import asyncio

import nats.errors
import nats.js.errors

from tests.harness.nats.cluster import NatsNode, NatsServers
from tests.harness.waiting import PATIENCE, eventually
from tidemark.nats import Connection


async def restart(node: NatsNode) -> None:
    """Kill and start a server; returns when the server is ready, which may be before the cluster is complete."""
    ups = node.log.count("Server is ready")
    node.kill()
    node.start()
    await eventually(lambda: node.log.count("Server is ready") > ups, f"{node.home.name} is up again")


async def all_there(cluster: NatsServers, connection: Connection) -> None:
    """Wait until the cluster can place a stream on all its servers."""
    jetstream = connection.jetstream(timeout=1)
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await jetstream.add_stream(name="ALL", subjects=["all"], num_replicas=len(cluster.nodes))
            await jetstream.delete_stream("ALL")
        except (nats.js.errors.APIError, nats.errors.Error):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        else:
            return
