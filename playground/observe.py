"""Observes a running deployment from outside, as an operator would, and records it."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

from playground.deployment import Deployment, authority_session, read_state
from playground.record import Record

_TIMEOUT = aiohttp.ClientTimeout(5)
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Observation:
    """What each program reported at one moment; ``journeys`` are those that ended since the previous observation."""

    at: float
    authority: dict[str, Any] = field(default_factory=dict)
    fleet: dict[str, Any] = field(default_factory=dict)
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)
    journeys: tuple[tuple[str, dict[str, Any]], ...] = ()


class Observer:
    """Asks the authority and every agent, and adds what they say to ``record``."""

    def __init__(self, deployment: Deployment) -> None:
        layout = deployment.layout
        self._layout = layout
        self._deployment = deployment
        self._processes = {name: psutil.Process(agent.pid) for name, agent in deployment.agents.items()}
        self._plain = aiohttp.ClientSession(timeout=_TIMEOUT)
        self._authority = authority_session(layout)
        self._cpu_from: dict[str, tuple[float, float]] = {}
        self.record = Record(
            agents=tuple(pod.name for pod in layout.pods),
            applications=tuple(pod.name for pod in layout.applications),
        )

    async def __aenter__(self) -> "Observer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._plain.close()
        await self._authority.close()

    def begin(self) -> None:
        """The load runs and every agent has proven the first set: messages published from here on count."""
        self.record.load_since = time.time()
        self._cpu_from = {name: (time.monotonic(), _cpu_seconds(process)) for name, process in self._processes.items()}

    async def look(self) -> Observation:
        """Ask every program once."""
        authority, fleet, bundles = await asyncio.gather(
            *(self._ask(self._authority, f"{self._layout.authority_url}/api/v1/{path}") for path in _API)
        )
        statuses = await asyncio.gather(
            *(self._ask(self._plain, f"{pod.agent_url}/status") for pod in self._layout.pods)
        )
        agents = {pod.name: status for pod, status in zip(self._layout.pods, statuses, strict=True) if status}
        journeys = [
            (name, dict(journey)) for name, status in agents.items() for journey in self.record.note_agent(name, status)
        ]
        if bundles:
            self.record.note_bundles(bundles["bundles"])
        self.note_counts()
        self._note_processes()
        return Observation(time.time(), authority, fleet, agents, tuple(journeys))

    def note_counts(self) -> None:
        """Read what the applications have counted so far; after ``stop_load`` that is final."""
        states = {pod.name: read_state(pod.state_file) for pod in self._layout.applications}
        self.record.publisher, self.record.consumer = states["publisher"], states["consumer"]

    def _note_processes(self) -> None:
        for name, process in self._processes.items():
            if not process.is_running():
                continue  # the deployment's watch reports it
            self.record.note_memory(name, process.memory_info().rss / _MIB)
            if name in self._cpu_from:
                since, before = self._cpu_from[name]
                elapsed = time.monotonic() - since
                if elapsed > 1:
                    self.record.cpu_millicores[name] = 1000 * (_cpu_seconds(process) - before) / elapsed

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
        """A program's answer; empty where it does not answer just now."""
        try:
            async with session.get(url) as response:
                response.raise_for_status()
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError):
            return {}
        return answer if isinstance(answer, dict) else {}


_API = ("status", "fleet", "bundles")


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
