from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.authority.monitoring_stack import MonitoringStack


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[MonitoringStack]:
    async with MonitoringStack.running(tmp_path / "deployment") as stack:
        yield stack
