"""The set store: what a restarted agent restores from the output directory and the state file."""

from dataclasses import replace
from typing import Any

import pytest

from agent.store.output_directory import OutputDirectory
from tests.harness.agent.sandbox import AgentSandbox
from tests.harness.contract.bundle_factory import BundleFactory
from tidemark.receipt import AgentState
from tidemark.verify import Mark


async def test_installed_set_is_restored_without_state_file(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(5), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    (sandbox.out / ".tidemark.json").write_bytes(b"garbage")
    sandbox.mount(factory.bundle(4))
    async with sandbox.agent() as observed:
        status = await observed.is_proven(5)
        assert status.highest is not None
        assert status.highest.sequence == 5, "what is installed was verified once"


async def test_replay_is_rejected_after_restart(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(5), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    sandbox.mount(factory.bundle(4))
    async with sandbox.agent() as observed:
        await observed.fails("replay")
        assert sandbox.installed().sequence == 5


async def test_tampered_installed_set_is_not_restored(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(5), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    file = sandbox.out / "ca.crt"
    file.write_bytes(file.read_bytes() + factory.leaf().crt)
    sandbox.bundle_mount.path.rename(sandbox.folder / "away")
    async with sandbox.agent() as observed:
        status = await observed.fails("mount_missing")
        assert (status.state, status.installed) == (AgentState.STARTING, None)


@pytest.mark.parametrize("other", [{"leaf_sha256": "0" * 64}, {"mark": Mark(5, "0" * 64)}])
async def test_other_set_in_directory_of_proven_set_is_not_proven(
    factory: BundleFactory, sandbox: AgentSandbox, other: dict[str, Any]
) -> None:
    sandbox.mount(factory.bundle(5), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(5)
    output = OutputDirectory(sandbox.out)
    state = output.read_state()
    assert state.proven is not None
    output.write_state(replace(state, proven=replace(state.proven, **other)))
    sandbox.targets = "signal:?process=tide-nobody"
    async with sandbox.agent() as observed:
        status = await observed.fails("no_process")
        assert status.installed is not None
        assert status.proven is None
