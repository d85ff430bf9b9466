"""The whole deployment, as `make run` starts it: real servers, real agents, real messages."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from tests.harness.paths import CHECKOUT

UP = "counting from here"
PATIENCE = 120.0

T = TypeVar("T")
Status = dict[str, Any]


class Run:
    """A playground of its own in ``directory``, with its output line by line."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "playground", "--directory", str(directory), *arguments],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )

    def until(self, text: str) -> str:
        """Read lines until one holds ``text``; fails when the output ends first."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return line
        pytest.fail(f"expected a line with {text!r}, found:\n{''.join(self.lines)}")

    def rest(self) -> str:
        """Everything up to the end of the run."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.readlines()
        self.process.wait()
        return "".join(self.lines)

    def authority(self, *command: str) -> str:
        """What a command of the authority says, typed while it runs."""
        program = [sys.executable, "-m", "authority", "--config", str(self.directory / "authority.toml")]
        done = subprocess.run(
            [*program, *command], cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def eventually(self, look: Callable[[Status], T | None], what: str) -> T:
        """Ask the authority for its status until there is something; fails naming ``what``."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if (found := look(json.loads(self.authority("status", "--json")))) is not None:
                return found
        pytest.fail(f"expected {what} within {PATIENCE:g} s")

    def children(self) -> list[psutil.Process]:
        """Every process that this playground started and that still runs."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if process.pid != self.process.pid and str(self.directory) in repr(process.info)
        ]


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def started(*arguments: str) -> Run:
        runs.append(Run(tmp_path / "playground", *arguments))
        return runs[-1]

    yield started
    for run in runs:
        run.process.kill()
        with run.process:  # closes the pipe
            run.process.wait()
        _, alive = psutil.wait_procs(run.children(), timeout=10)
        assert not alive, f"left behind: {alive}"


def assert_clean(run: Run) -> None:
    """No process and no key is left; the logs are."""
    assert run.children() == []
    assert sorted(entry.name for entry in run.directory.iterdir() if entry.is_dir()) == ["logs"]
    keys = [file for file in run.directory.rglob("*") if file.is_file() and b"PRIVATE KEY" in file.read_bytes()]
    assert keys == []


def test_rotations_under_load_are_proven_without_message_loss(start: Start) -> None:
    run = start("--rotations", "2")
    output = run.rest()
    assert run.process.returncode == 0, output
    figures = json.loads((run.directory / "summary.json").read_text())
    assert figures["rotations"] == 2
    assert figures["agents"] == 5
    assert figures["proven"] == 10
    assert figures["reverted"] == 0
    for counts in figures["messages"].values():
        assert counts["published"] > 20_000
        assert counts["received"] == counts["published"]
        assert (counts["lost"], counts["duplicated"]) == (0, 0)
    # Two swaps a rotation (bundle, then leaf) for each of three servers and two applications.
    assert figures["swap_to_proven_ms"]["nats"]["samples"] >= 12
    assert figures["swap_to_proven_ms"]["application"]["samples"] >= 8
    assert output.count("ROTATION") == 2
    assert "Nothing was lost, everything was proven." in output
    assert_clean(run)


def test_rotations_with_openbao_are_proven_without_message_loss(start: Start) -> None:
    run = start("--issuer", "openbao", "--rotations", "1")
    run.until("openbao: running")
    (server,) = [process for process in run.children() if "bao" in Path(process.info["cmdline"][0]).name]
    output = run.rest()
    assert run.process.returncode == 0, output
    figures = json.loads((run.directory / "summary.json").read_text())
    assert (figures["rotations"], figures["agents"], figures["proven"], figures["reverted"]) == (1, 5, 5, 0)
    for counts in figures["messages"].values():
        assert counts["received"] == counts["published"] > 5_000
        assert (counts["lost"], counts["duplicated"]) == (0, 0)
    assert "Nothing was lost, everything was proven." in output
    assert not server.is_running()
    assert_clean(run)
    left = [file for file in run.directory.rglob("*") if file.is_file()]
    assert not [file for file in left if b"Unseal Key" in file.read_bytes()], "what opens OpenBao is not kept"


def test_rollback_and_revocation_under_load_lose_no_message(start: Start) -> None:
    run = start()
    run.until(UP)
    for command in ("rollback", "revoke"):
        bad = calm(run)
        before = time.monotonic()
        run.authority(command, "--reason", "a drill", "--ca", bad)
        withdrawal = run.eventually(partial(distrusted, bad), f"{command} of {bad}")
        print(
            f"{command}: distrusted by all {len(withdrawal['distrusted'])} agents {withdrawal['slowest']:.2f} s after "
            f"the request; {time.monotonic() - before:.1f} s by the command line"
        )
        assert withdrawal["stage"] == "done"
        assert withdrawal["cause"] == {"rollback": "rollback", "revoke": "revocation"}[command]
    run.process.send_signal(signal.SIGINT)
    output = run.rest()
    assert run.process.returncode == 0, output
    assert "Nothing was lost, everything was proven." in output
    assert_clean(run)


def calm(run: Run) -> str:
    """Wait until the newest CA signs and everybody has proven it, with time left in the epoch; its fingerprint."""

    def look(status: Status) -> str | None:
        newest, signing = status["newest"], status["signing"]["sha256"]
        is_early = status["epoch"]["prepare_at"] - status["now"] > 4
        has_leaves = all(leaf["ca"] == signing for leaf in status["leaves"])
        return (
            signing if is_early and has_leaves and newest["ca"] == signing and status["fleet"]["proven"] == 5 else None
        )

    return str(run.eventually(look, "a rotation that everybody has proven"))


def distrusted(ca: str, status: Status) -> Status | None:
    return next((one for one in status["withdrawals"] if one["ca"] == ca and len(one["distrusted"]) == 5), None)


def test_interrupt_prints_a_summary_and_ends_every_process(start: Start) -> None:
    run = start()
    run.until(UP)
    run.process.send_signal(signal.SIGINT)
    output = run.rest()
    assert run.process.returncode == 0, output
    assert "Rotations: 0" in output
    assert_clean(run)


def test_run_ends_and_names_a_server_that_died(start: Start) -> None:
    run = start()
    run.until(UP)
    server = next(process for process in run.children() if process.info["cmdline"][-1].endswith("nats-1/nats.conf"))
    server.kill()
    output = run.rest()
    assert run.process.returncode == 1
    assert "nats-1 ended by itself with status -9" in output
    assert_clean(run)


def test_killed_playground_ends_its_processes(start: Start) -> None:
    run = start()
    run.until("agents: 5 running")
    children = run.children()
    assert len(children) >= 6
    run.process.kill()
    run.process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
