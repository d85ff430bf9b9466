"""Fixtures of the authority's tests."""

import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.harness.authority.harness import AuthorityHarness
from tests.harness.openbao.server import OpenBaoNamespace, OpenBaoServer, serving


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    with serving(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
async def empty_space(openbao: OpenBaoServer) -> AsyncIterator[OpenBaoNamespace]:
    """An empty namespace."""
    space = await OpenBaoNamespace.create(openbao)
    async with space.client:
        yield space


@pytest.fixture
async def space(empty_space: OpenBaoNamespace) -> OpenBaoNamespace:
    """A namespace where ``init --openbao`` was done."""
    await empty_space.set_up(int(time.time()))
    return empty_space


@pytest.fixture
def harness() -> AuthorityHarness:
    """An authority over a world in memory, not booted yet, with one agent."""
    return AuthorityHarness()
