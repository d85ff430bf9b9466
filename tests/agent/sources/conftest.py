"""Fixtures of the tests of sources."""

from pathlib import Path

import pytest

from tests.harness.agent.mounts import KubeletMount


@pytest.fixture
def mount(tmp_path: Path) -> KubeletMount:
    return KubeletMount(tmp_path / "bundle")
