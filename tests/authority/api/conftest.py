"""A whole authority in this process, and sessions over real HTTPS."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.harness.authority.api_calls import clock
from tests.harness.authority.deployment import AuthorityDeployment


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[AuthorityDeployment]:
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="testing")
    deployment.init()
    async with deployment.running(clock):
        yield deployment


@pytest.fixture
async def reader(deployment: AuthorityDeployment) -> AsyncIterator[aiohttp.ClientSession]:
    async with deployment.session() as session:
        yield session


@pytest.fixture
async def agent(deployment: AuthorityDeployment) -> AsyncIterator[aiohttp.ClientSession]:
    async with deployment.session(deployment.token("agent")) as session:
        yield session


@pytest.fixture
async def operator(deployment: AuthorityDeployment) -> AsyncIterator[aiohttp.ClientSession]:
    async with deployment.session(deployment.token("operator")) as session:
        yield session
