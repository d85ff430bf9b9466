"""A real Prometheus scrapes the real programs by these rules: quiet while all is well, and then the right alert."""

import asyncio
import copy
import re
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from playground.deployment import deployed
from playground.layout import Layout
from tests.harness.authority.monitoring_stack import MonitoringStack, rule_groups
from tests.harness.ports import free_port
from tests.harness.tools import tool
from tests.harness.waiting import eventually
from tidemark.trust import Trust

Alerts = set[tuple[str, str]]

MISSED_SECONDS = 90.0
"""An agent of the playground is missing after 20 s: D/2 and two heartbeats."""


def hurried(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules with every wait of theirs a second; what an hour counts stays an hour."""
    groups = copy.deepcopy(groups)
    for group in groups:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
    return groups


@dataclass(frozen=True)
class Scraped:
    """Where agents, by pod, and the authority are, as URLs; and the CA of the authority's certificate, in PEM."""

    agents: Mapping[str, str]
    authority: str
    control_ca: bytes

    @classmethod
    async def of(cls, stack: MonitoringStack) -> "Scraped":
        agents = {name: agent.url for name, agent in stack.agents.items()}
        return cls(agents, stack.deployment.url, await stack.control_ca())

    @classmethod
    def of_playground(cls, layout: Layout) -> "Scraped":
        control_ca = Trust.parse(layout.trust_file.read_bytes()).control_ca
        assert control_ca is not None
        return cls({pod.name: pod.agent_url for pod in layout.pods}, layout.authority_url, control_ca.encode())


class Prometheus:
    """A server of its own on a free port; it keeps its data under ``root``."""

    def __init__(self, root: Path, scraped: Scraped) -> None:
        self.root = root
        self.scraped = scraped
        self.url = f"http://127.0.0.1:{free_port()}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Prometheus"]:
        self._configure()
        command = [
            f"--config.file={self.root / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.root / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        process = await asyncio.create_subprocess_exec(tool("prometheus"), *command, stdout=DEVNULL, stderr=DEVNULL)
        try:
            yield self
        finally:
            process.terminate()
            await process.wait()

    def _configure(self) -> None:
        self.root.mkdir()
        (self.root / "ca.crt").write_bytes(self.scraped.control_ca)
        (self.root / "rules.yaml").write_text(yaml.safe_dump({"groups": hurried(rule_groups())}))
        agents = [
            {"targets": [url.removeprefix("http://")], "labels": {"namespace": "bus", "pod": name}}
            for name, url in self.scraped.agents.items()
        ]
        authority = {"targets": [self.scraped.authority.removeprefix("https://")], "labels": {"namespace": "tidemark"}}
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": "tidemark/tidemark-agents", "static_configs": agents},
                {
                    "job_name": "tidemark-authority",
                    "scheme": "https",
                    "tls_config": {"ca_file": "ca.crt"},
                    "static_configs": [authority],
                },
            ],
        }
        (self.root / "prometheus.yaml").write_text(yaml.safe_dump(configuration))

    async def ask(self, path: str, **query: str) -> Any:
        """What its API answers; None while it does not."""
        try:
            async with (
                aiohttp.ClientSession(self.url) as session,
                session.get(f"/api/v1/{path}", params=query) as response,
            ):
                return (await response.json())["data"] if response.status == 200 else None
        except aiohttp.ClientError:
            return None

    async def sees_everything(self) -> bool:
        """Whether every target is up, and the rules have been evaluated over what they show."""
        targets = ((await self.ask("targets")) or {}).get("activeTargets", [])
        recorded = (await self.ask("query", query="tidemark:verifications:1h")) or {"result": []}
        agents = len(self.scraped.agents)
        are_up = len(targets) == agents + 1 and all(one["health"] == "up" for one in targets)
        return are_up and len(recorded["result"]) >= agents

    async def is_quiet(self) -> bool:
        return await self.firing() == set()

    async def firing(self) -> Alerts:
        alerts = ((await self.ask("alerts")) or {}).get("alerts", [])
        return {
            (one["labels"]["alertname"], one["labels"].get("pod", "")) for one in alerts if one["state"] == "firing"
        }


@pytest.mark.needs("prometheus")
async def test_stopped_agent_fires_its_alert_and_no_other(tmp_path: Path) -> None:
    layout = Layout.allot(tmp_path / "playground")
    layout.root.mkdir()
    async with (
        deployed(layout, "playground", print) as deployment,
        Prometheus(tmp_path / "prometheus", Scraped.of_playground(layout)).running() as prometheus,
    ):
        await eventually(prometheus.sees_everything, "everything to be scraped")
        await eventually(prometheus.is_quiet, "what fired before anything was scraped to end", MISSED_SECONDS)
        await deployment.agents["nats-0"].stop(5)

        async def fires() -> Alerts:
            return {alert for alert in await prometheus.firing() if alert[0] == "TidemarkRequiredAgentMissing"}

        assert await eventually(fires, "the alert", MISSED_SECONDS) == {("TidemarkRequiredAgentMissing", "")}
        answer = await prometheus.ask("alerts")
        (alert,) = (one for one in answer["alerts"] if one["labels"]["alertname"] == "TidemarkRequiredAgentMissing")
        assert alert["annotations"]["summary"] == "Required agents without a fresh receipt: 1"
        assert alert["labels"]["severity"] == "warning"


@pytest.mark.needs("prometheus")
async def test_foreign_write_to_a_bundle_secret_fires_at_once(stack: MonitoringStack, tmp_path: Path) -> None:
    async with Prometheus(tmp_path / "prometheus", await Scraped.of(stack)).running() as prometheus:
        await eventually(prometheus.sees_everything, "everything to be scraped")
        mount = stack.deployment.root / "app-0" / "bundle"
        note = (mount / "bundle.note").read_text()
        forged = mount / "..forged"
        forged.mkdir()
        (forged / "ca.crt").write_bytes((mount / "ca.crt").read_bytes())
        (forged / "bundle.note").write_text(re.sub(r'"sequence": ?\d+', '"sequence":9999', note))
        (mount / "..data_tmp").symlink_to("..forged")
        (mount / "..data_tmp").rename(mount / "..data")

        async def fires() -> Alerts:
            return {alert for alert in await prometheus.firing() if alert[0] == "TidemarkForeignBundle"}

        assert await eventually(fires, "the page") == {("TidemarkForeignBundle", "app-0")}
