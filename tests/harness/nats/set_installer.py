"""Installs new sets for a connection, and finds the server that a connection is connected to."""

from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsNode, NatsServers, digests
from tidemark.nats import Connection


class SetInstaller:
    """Installs new sets, alternating between the CAs, and reloads."""

    def __init__(self, connection: Connection, output: InstalledOutput, *cas: ClusterCa) -> None:
        self._connection, self._output, self._cas = connection, output, cas
        self._installed = 0

    def install(self) -> None:
        self._installed += 1
        ca = self._cas[self._installed % len(self._cas)]
        self._output.install(b"".join(one.pem for one in self._cas), *ca.leaf())

    async def install_and_reload(self) -> None:
        self.install()
        await self._connection.reload()
        assert digests(self._connection) == self._output.digests()


def node_of(connection: Connection, cluster: NatsServers) -> NatsNode:
    assert connection.connected_url is not None
    return next(node for node in cluster.nodes if node.port == connection.connected_url.port)
