"""A real authority and two real agents with short epochs, and their metrics pages."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.harness.agent.sandbox import AgentProcess
from tests.harness.authority.deployment import AGENTS, AuthorityDeployment
from tests.harness.paths import MONITORING
from tests.harness.ports import free_port
from tests.harness.waiting import eventually

CLOCK = "[clock]\nepoch_seconds = 12\nvalidity_seconds = 48\nprepare_seconds = 7"
"""An agent is missing after D/2 and two heartbeats: 12 s."""


@dataclass
class MonitoringStack:
    """``nats-0`` is required, ``app-0`` an application; neither has a target, so what is installed is proven."""

    deployment: AuthorityDeployment
    agents: dict[str, AgentProcess]

    @classmethod
    @asynccontextmanager
    async def running(cls, root: Path) -> AsyncIterator["MonitoringStack"]:
        deployment = AuthorityDeployment.create(root, preset="playground", more=CLOCK)
        deployment.init()
        async with deployment.running():
            (root / "trust.toml").write_text((await deployment.trust()).dump())
            stack = cls(deployment, {name: AgentProcess(_environment(deployment, name)) for name in AGENTS})
            try:
                for name, agent in stack.agents.items():
                    agent.start(root / f"{name}.log")
                for agent in stack.agents.values():
                    await agent.answers("/readyz")
                await eventually(stack.is_proven, "both agents to be proven")
                yield stack
            finally:
                for agent in stack.agents.values():
                    agent.stop()

    async def is_proven(self) -> bool:
        return 'ca_rotation_fleet_agents{state="proven"} 2.0' in await self.authority_page()

    async def authority_page(self) -> str:
        async with self.deployment.session() as session, session.get("/metrics") as response:
            assert response.status == 200
            return await response.text()

    def agent_page(self, name: str) -> str:
        status, page = self.agents[name].get("/metrics")
        assert status == 200
        return page

    async def control_ca(self) -> bytes:
        ca = (await self.deployment.trust()).control_ca
        assert ca is not None
        return ca.encode()


def _environment(deployment: AuthorityDeployment, name: str) -> dict[str, str]:
    root = deployment.root
    return {
        "TIDEMARK_BUNDLE": str(root / name / "bundle"),
        "TIDEMARK_LEAF": str(root / name / "leaf"),
        "TIDEMARK_TRUST": str(root / "trust.toml"),
        "TIDEMARK_OUT": str(root / name / "out"),
        "TIDEMARK_POD": name,
        "TIDEMARK_CLASS": "required" if name == "nats-0" else "application",
        "TIDEMARK_AUTHORITY_URL": deployment.url,
        "TIDEMARK_AUTHORITY_TOKEN_FILE": str(deployment.state / "tokens" / "agent"),
        "TIDEMARK_LISTEN": f"127.0.0.1:{free_port()}",
    }


def rule_groups() -> list[dict[str, object]]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
    assert isinstance(groups, list)
    return groups


def names_on(page: str) -> set[str]:
    """Every name that an expression may use: of the families, and of a histogram's series."""
    found: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return found


def labels_on(page: str) -> dict[str, set[str]]:
    """Labels of every series on the page, by its name."""
    found: dict[str, set[str]] = {}
    for name, inner in re.findall(r"^(ca_rotation_\w+)(?:\{(.*)\})? \S+$", page, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=\"", inner))
    return found


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bca_rotation_\w+", expression))


def selectors_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each selector with its labels."""
    for name, inner in re.findall(r"\b(ca_rotation_\w+)\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inner))
