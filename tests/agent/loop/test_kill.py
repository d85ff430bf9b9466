"""An agent that is killed at any step, or at any moment, leaves a whole set, and finishes at its next start."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.harness.agent.killing import KINDS, STEPS
from tests.harness.measurements import ReportTable
from tests.harness.paths import CHECKOUT
from tests.harness.soak import report, size

KILLS = size("SOAK_KILLS", 20)
REACHED = ("swapped", *STEPS)


def kills(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """Kill as ``killing`` says; what holds for every kill is checked here."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.harness.agent.killing", str(folder), *map(str, arguments)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [kill for kill in found if not kill["whole"]] == [], "one whole verified set, old or new"
    assert [kill for kill in found if not (kill["recovered"] and kill["served"])] == []
    return found


def test_agent_killed_before_every_step_recovers(tmp_path: Path) -> None:
    found = kills(tmp_path)
    steps = [kill["before"] for kill in found]
    assert {
        "open bundle/..data",
        "os.rename out/.tidemark.json.new",
        "os.mkdir out/..2-1",
        "open out/..2-1/tls.key",
        "os.symlink out/..data_tmp",
        "os.rename out/..data_tmp",
        "open workload stat",
        "connect monitor",
        "connect client",
        "connect cluster",
        "os.rmdir out/..1-1",
    } <= set(steps)
    assert {kill["left"] for kill in found} == {2}, "one set and the memory are left"
    assert {kill["in_place"] for kill in found} == {"old", "new"}, "bundle and leaf come in place together"
    between = [kill for kill in found if kill["remembered"] == 2 and kill["in_place"] == "old"]
    assert between, "some kills fall between verifying and installing"


def test_agent_killed_at_random_moment_recovers(tmp_path: Path) -> None:
    found = kills(tmp_path, KILLS)
    assert len(found) == KILLS
    rows = []
    for reached in REACHED:
        after = [kill for kill in found if kill["after"] == reached]
        places = Counter(kill["in_place"] for kill in after)
        kinds = Counter(kill["kind"] for kill in after)
        rows.append(
            [
                *(reached, len(after), places["old"], places["between"], places["new"]),
                *(sum(kill[what] for kill in after) for what in ("whole", "recovered")),
                *(kinds[kind.value] for kind in KINDS),
            ]
        )
    columns = ["last event", "kills", "old set", "new bundle, old leaf", "new set", "whole", "recovered"]
    caption = "Kills by the last logged event and by what was swapped, and the set that was in place then."
    table = ReportTable(caption, [*columns, *(f"of them {kind.value}" for kind in KINDS)], rows)
    report("soak-kills", "Agent: killed at random moments of the cycle", table)
    assert max(kill["left"] for kill in found) <= 3, "the set in place, the last proven one, and the memory"
    if KILLS >= 100:
        assert {"swapped", "verified", "installed", "proven"} <= {kill["after"] for kill in found}
