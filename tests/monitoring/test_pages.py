"""The metrics pages of the real programs: as Prometheus and the dashboard want them.

The names are those of docs/architecture.md, "Metrics".
"""

import asyncio
import json
import re
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.authority.monitoring_stack import (
    MonitoringStack,
    labels_on,
    metrics_in,
    names_on,
    rule_groups,
    selectors_in,
)
from tests.harness.paths import MONITORING
from tests.harness.tools import tool

AUTHORITY = {
    "ca_rotation_attempts_total": {"outcome"},
    "ca_rotation_generation_duration_seconds_count": set(),
    "ca_rotation_orchestration_duration_seconds_count": set(),
    "ca_rotation_current_epoch": set(),
    "ca_rotation_current_sequence": set(),
    "ca_rotation_active_epoch": set(),
    "ca_rotation_last_success_timestamp_seconds": set(),
    "ca_rotation_publish_total": {"target", "outcome"},
    "ca_rotation_publish_duration_seconds_count": {"target"},
    "ca_rotation_fleet_agents": {"state"},
    "ca_rotation_gate_held": set(),
    "ca_rotation_signing_ca_expiry_timestamp_seconds": set(),
}
AGENT = {
    "ca_rotation_secret_propagation_seconds_count": set(),
    "ca_rotation_verifications_total": {"outcome", "reason"},
    "ca_rotation_stage_duration_seconds_count": {"stage"},
    "ca_rotation_installed_sequence": set(),
    "ca_rotation_installed_epoch": set(),
    "ca_rotation_proven_sequence": set(),
    "ca_rotation_bundle_expiry_timestamp_seconds": set(),
    "ca_rotation_leaf_expiry_timestamp_seconds": set(),
}
"""Those of docs/architecture.md, "Metrics", with their labels."""
SILENT = {"ca_rotation_reloads_total": {"target", "outcome"}, "ca_rotation_reverts_total": {"reason"}}
"""Of those, what an agent without a target never counts."""

BY_PROMETHEUS = {"namespace", "pod", "container", "job", "instance", "le"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of dashboard and rules, with where it stands, its variables given values."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            text = (
                target["expr"].replace("$__rate_interval", "5m").replace("$__range", "1h").replace("$namespace", ".*")
            )
            assert "$" not in text, text
            yield panel["title"], text
    for group in rule_groups():
        for rule in group["rules"]:  # type: ignore[attr-defined]
            yield rule.get("alert") or rule["record"], rule["expr"]


async def test_pages_have_every_documented_and_every_queried_metric(stack: MonitoringStack) -> None:
    authority, agent = await stack.authority_page(), stack.agent_page("nats-0")
    for page, wanted in ((authority, AUTHORITY), (agent, AGENT)):
        shown = labels_on(page)
        assert {name: shown.get(name) for name in wanted} == wanted
    known = names_on(authority) | names_on(agent)
    assert known >= SILENT.keys()
    labels = labels_on(authority) | labels_on(agent) | SILENT
    for where, text in expressions():
        assert metrics_in(text) <= known, where
        for name, asked in selectors_in(text):
            family = re.sub("_bucket$", "_count", name)
            assert asked - BY_PROMETHEUS <= labels[family], f"{where}: {name}"


@pytest.mark.needs("promtool")
async def test_promtool_accepts_the_metrics_pages(stack: MonitoringStack) -> None:
    for page in (await stack.authority_page(), stack.agent_page("nats-0")):
        process = await asyncio.create_subprocess_exec(
            tool("promtool"), "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(120):
            assert await process.communicate(page.encode()) == (b"", b"")
        assert process.returncode == 0


@pytest.mark.needs("promtool")
def test_promtool_accepts_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"tidemark:number{number}", "expr": text} for number, (_, text) in enumerate(expressions())]
    assert len(rules) > 40
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(
        [str(tool("promtool")), "check", "rules", "--lint-fatal", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_panels_fit_the_grid_and_have_descriptions() -> None:
    found = dashboard()
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
