"""The rules, unit-tested by promtool: each alert fires where it should, not before, and not where it should not."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.harness.authority.monitoring_stack import rule_groups
from tests.harness.tools import tool


@pytest.mark.needs("promtool")
def test_alert_rules_fire_as_the_cases_expect(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": rule_groups()}))
    tests = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text())
    for test in tests["tests"]:  # which alerts, is written there; with which words, in the rules alone
        for case in test["alert_rule_test"]:
            for expected in case.get("exp_alerts") or []:
                expected["exp_annotations"] = annotations(case["alertname"], expected)
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        [str(tool("promtool")), "test", "rules", str(tmp_path / "tests.yaml")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def annotations(alert: str, expected: dict[str, object]) -> dict[str, str]:
    """The rule's, with ``exp_summary`` in place of the template where it has one."""
    (rule,) = (
        rule
        for group in rule_groups()
        for rule in group["rules"]  # type: ignore[attr-defined]
        if rule.get("alert") == alert
    )
    found: dict[str, str] = dict(rule["annotations"])
    for key in ("summary", "description"):
        if (value := expected.pop(f"exp_{key}", None)) is not None:
            found[key] = str(value)
    return found
