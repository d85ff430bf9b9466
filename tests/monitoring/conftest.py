from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.monitoring_stack import House


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House.running(tmp_path / "house") as house:
        yield house
