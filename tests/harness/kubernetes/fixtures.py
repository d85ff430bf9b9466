from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.credentials import Kubeconfig
from tests.harness.authority.deployment import AuthorityDeployment
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.deployment import furnish


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    async with ApiServer(tmp_path / "apiserver").running() as server:
        server.namespace("tidemark")
        yield server


@pytest.fixture
async def client(server: ApiServer, tmp_path: Path) -> AsyncIterator[KubernetesClient]:
    """A client with the rights of an administrator."""
    file = server.kubeconfig(tmp_path / "kubeconfig", server.accounts.administrator())
    async with KubernetesClient(Kubeconfig(file), pauses=(0.01, 0.02)) as client:
        yield client


@pytest.fixture
def deployment(server: ApiServer, tmp_path: Path) -> AuthorityDeployment:
    """An authority that is configured for the cluster and does not run yet."""
    return furnish(server, tmp_path / "deployment")
