"""The playground's load applications as processes, each with an output directory of its own."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from playground.layout import free_ports
from tests.harness.nats.cluster import InstalledOutput
from tests.harness.waiting import PATIENCE


class Application:
    """A publisher or a consumer, with its own output directory."""

    def __init__(self, name: str, home: Path, port: int) -> None:
        self.name = name
        self.output = InstalledOutput(home / name)
        self.port = port
        self.state_file = home / f"{name}.json"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, servers: list[str], *more: str) -> None:
        command = [sys.executable, "-m", f"playground.{self.name}", "--directory", str(self.output.path)]
        command += ["--servers", ",".join(servers), "--reload-port", str(self.port), "--state", str(self.state_file)]
        self.process = await asyncio.create_subprocess_exec(*command, *more)

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.state_file.read_text())) if self.state_file.exists() else {}

    async def ask_to_reload(self) -> tuple[int, Any]:
        """Status and body of the answer."""
        ca, leaf = self.output.digests()
        body = {"sequence": 1, "ca_sha256": ca, "leaf_sha256": leaf, "directory": str(self.output.path)}
        async with aiohttp.request("POST", f"http://127.0.0.1:{self.port}/-/reload", json=body) as answer:
            return answer.status, await answer.json()

    async def reload(self) -> None:
        ca, leaf = self.output.digests()
        assert await self.ask_to_reload() == (200, {"ca_sha256": ca, "leaf_sha256": leaf})

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


@asynccontextmanager
async def applications(home: Path) -> AsyncIterator[tuple[Application, Application]]:
    ports = free_ports(2)
    made = Application("publisher", home, ports[0]), Application("consumer", home, ports[1])
    try:
        yield made
    finally:
        for one in made:
            if one.process is not None and one.process.returncode is None:
                one.process.kill()
                await one.process.wait()
