"""An agent that is killed at any step leaves a whole set, and finishes at its next start."""

import json
import subprocess
import sys
from pathlib import Path

from tests.agent.site import CHECKOUT


def test_killed_before_every_step_on_the_output_directory(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.agent.killing", str(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    kills = [json.loads(line) for line in run.stdout.splitlines()]
    whole = ([1, False], [2, True])
    assert [kill for kill in kills if kill["in_place"] not in whole] == []
    assert [kill for kill in kills if not kill["recovered"]] == []
    assert {len(kill["left"]) for kill in kills} == {2}, "one set and the memory are left"
    steps = [kill["killed_at"] for kill in kills]
    assert {
        "os.rename out/.tidemark.json.new",
        "os.mkdir out/..2-1",
        "open out/..2-1/tls.key",
        "os.symlink out/..data_tmp",
        "os.rename out/..data_tmp",
        "os.rmdir out/..1-1",
    } <= set(steps)
    between = [kill for kill in kills if kill["highest"] == 2 and kill["in_place"] == [1, False]]
    assert between, "some kills fall between verifying and installing"
