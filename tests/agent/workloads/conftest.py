"""Fixtures of the tests of workloads."""

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.harness.processes import launch


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []

    def run(*command: object) -> subprocess.Popen[bytes]:
        processes.append(launch(*command))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()
