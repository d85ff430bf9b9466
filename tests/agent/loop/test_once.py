"""``python -m agent --once``: one verified set in place, and an exit status that says what came of it."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.__main__ import HELP
from tests.harness.agent.sandbox import AgentSandbox, snapshot, write_set
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.nats.announcement_broker import AnnouncementBroker
from tests.harness.nats.server import NatsServer
from tests.harness.paths import CHECKOUT
from tidemark.note import Signer


@pytest.fixture
def broker(tmp_path: Path, factory: BundleFactory) -> Iterator[AnnouncementBroker]:
    write_set(tmp_path / "broker-files", factory.bundle(1), factory.leaf())
    made = AnnouncementBroker(tmp_path / "broker", tmp_path / "broker-files")
    yield made
    made.stop()


def run(
    sandbox: AgentSandbox, *arguments: str, largest: int = -1, **changes: str
) -> "subprocess.CompletedProcess[str]":
    limit = [f"--fsize={largest}"] if largest >= 0 else []
    return subprocess.run(
        [*(["prlimit", *limit] if limit else []), sys.executable, "-m", "agent", *(arguments or ["--once"])],
        env={"PATH": os.environ["PATH"], **sandbox.environment(TIDEMARK_LOG="json", **changes)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def events(done: "subprocess.CompletedProcess[str]") -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [(line["event"], line.get("reason", "")) for line in lines]


def test_once_installs_verified_set_and_reports_refusals(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    assert (run(sandbox).returncode, sandbox.out.exists()) == (3, True), "nothing is mounted yet"
    sandbox.mount(factory.bundle(2), factory.leaf())
    done = run(sandbox)
    assert (done.returncode, events(done), done.stderr) == (0, [("in_place", "")], "")
    assert sandbox.installed().sequence == 2
    before = (sandbox.out / "..data").readlink()
    assert run(sandbox).returncode == 0
    assert (sandbox.out / "..data").readlink() == before, "what is in place is not written again"
    whole = snapshot(sandbox)
    for bundle, reason in (
        (factory.bundle(3, signer=Signer.generate(f"{factory.domain}/a")), "signature"),
        (factory.bundle(1), "replay"),
    ):
        sandbox.mount(bundle)
        done = run(sandbox)
        assert (done.returncode, events(done)) == (4, [("refused", reason), ("in_place", "")])
        assert snapshot(sandbox) == whole
    # A leaf that does not fit stays out, and the bundle goes in all the same.
    factory.include_root = False
    sandbox.mount(factory.bundle(4), factory.leaf(factory.ca(factory.epoch + 3)))
    done = run(sandbox)
    assert (done.returncode, events(done)) == (4, [("refused", "leaf_chain"), ("in_place", "")])
    assert sandbox.installed().sequence == 4


def test_once_exit_status_tells_refusal_from_write_failure(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(1, signer=Signer.generate(f"{factory.domain}/a")), factory.leaf())
    done = run(sandbox)
    assert (done.returncode, events(done)) == (3, [("refused", "signature")])
    assert not (sandbox.out / "ca.crt").exists()
    sandbox.mount(factory.bundle(1))
    done = run(sandbox, TIDEMARK_TRUST=str(sandbox.folder / "nothing.toml"))
    assert (done.returncode, events(done)) == (3, [("trust_unusable", "")])
    shutil.rmtree(sandbox.out)
    sandbox.out.write_text("a file is in the way")
    done = run(sandbox)
    assert (done.returncode, events(done)) == (1, [("install_failed", "")])
    assert f"{sandbox.out}: expected to write there, found File exists (EEXIST)" in done.stdout


def test_installed_set_stays_where_disk_is_full(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    assert run(sandbox).returncode == 0
    before = snapshot(sandbox)
    sandbox.mount(factory.bundle(2))
    done = run(sandbox, largest=1000)  # as a full disk: a write ends half way
    assert (done.returncode, events(done)) == (1, [("install_failed", "")])
    assert "(EFBIG)" in done.stdout
    assert snapshot(sandbox) == before
    assert [p.name for p in sandbox.out.iterdir() if p.is_dir() and not p.is_symlink()] == ["..1-1"]
    assert run(sandbox).returncode == 0
    assert sandbox.installed().sequence == 2


def test_every_exit_status_is_documented(sandbox: AgentSandbox) -> None:
    assert run(sandbox, "--help").stdout == HELP
    for status in ("0", "1", "2", "3", "4"):
        assert f"\n  {status}  " in HELP
        assert f"\n| `{status}`" in (CHECKOUT / "README.md").read_text()
    done = run(sandbox, "--twice")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("expected nothing, --once or --help, found: --twice")
    assert run(sandbox, TIDEMARK_POD="").returncode == 2


async def test_once_asks_broker_and_sidecar_continues_from_its_set(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker, server: NatsServer
) -> None:
    await broker.start()
    await broker.announce(factory.bundle(5))
    sandbox.nats_url = broker.url
    sandbox.mount(factory.bundle(2), factory.leaf())
    assert (await asyncio.to_thread(run, sandbox)).returncode == 0
    assert sandbox.installed().sequence == 5
    assert [p.name for p in sandbox.out.iterdir() if p.is_dir() and not p.is_symlink()] == ["..5-1"]
    await server.start()
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    assert server.complaints() == []
