"""Fixtures of the tests of OpenBao."""

import pytest

from tests.harness.openbao.open_mount import open_mount
from tests.harness.openbao.server import OpenBaoNamespace


@pytest.fixture
async def vault(empty_space: OpenBaoNamespace) -> OpenBaoNamespace:
    """A namespace with KV v2 and a policy that opens a part of it."""
    await open_mount(empty_space)
    return empty_space
