"""What happens when a set is not taken: the way back, what forbids it, and the next try."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent.loop.timing import RetryPolicy
from tests.harness.agent.sandbox import BRIEF, AgentSandbox, Observed, begin, serves, snapshot
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.nats.announcement_broker import AnnouncementBroker
from tests.harness.nats.server import NatsServer
from tests.harness.privileges import without_privileges
from tests.harness.waiting import eventually
from tidemark.receipt import AgentState, Level

MakeServer = Callable[..., NatsServer]


async def test_set_refused_by_broken_configuration_is_reverted_and_retried(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        before = snapshot(sandbox)
        server.write_config("broken {")
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        status = await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        assert snapshot(sandbox) == before
        assert serves(sandbox, server)
        assert (status.reverted and status.reverted.sequence, status.highest and status.highest.sequence) == (2, 2)
        assert (status.installed and status.installed.mark.sequence, status.proven and status.proven.sequence) == (1, 1)
        assert status.failure
        assert (status.failure.reason, status.failure.sequence) == ("reload_refused", 2)
        assert "expected config_load_time to move" in status.failure.detail
        assert status.targets[0].level is Level.PROVEN, "CA list and leaf alone prove the set that is back"
        assert observed.agent.registry.get_sample_value("ca_rotation_reverts_total", {"reason": "reload_refused"}) == 1
        server.write_config()
        status = await observed.is_proven(2)
        assert (status.reverted, status.failure) == (None, None)


async def test_unreadable_bundle_does_not_turn_revert_into_proof(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        server.write_config("broken {")
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        sandbox.bundle_mount.switch_to({"ca.crt": b"", "bundle.note": b"no note"})
        status = await observed.fails("signature")
        assert status.state is AgentState.REVERTED, "the set that is wanted was not taken, whatever the mount shows now"
        server.write_config()
        sandbox.mount(factory.bundle(3, [factory.epoch + 1, factory.epoch]))
        await observed.is_proven(3)


async def test_refused_leaf_is_reverted(factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer) -> None:
    first = factory.leaf()
    sandbox.mount(factory.bundle(1), first)
    async with sandbox.agent({"TIDEMARK_SPLAY": "3600"}) as observed:  # which is not for servers
        await begin(sandbox, server, observed)
        server.write_config("broken {")
        sandbox.mount(leaf=factory.leaf())
        await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        assert sandbox.file("tls.crt") == first.crt
        assert serves(sandbox, server)


async def test_set_with_withdrawn_ca_is_never_put_back(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1, [factory.epoch, factory.epoch - 1]), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        server.write_config("broken {")
        withdrawn = (factory.ca(factory.epoch - 1).sha256,)
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch], withdrawn=withdrawn))
        status = await observed.reaches(lambda s: s.state is AgentState.RELOAD_REFUSED, "a refusal")
        assert status.failure
        assert "the last proven set holds a withdrawn CA" in status.failure.detail
        assert sandbox.installed().sequence == 2
        assert status.reverted is None
        reverts = observed.agent.registry.get_sample_value("ca_rotation_reverts_total", {"reason": "reload_refused"})
        assert reverts is None, "nothing was taken back"
        server.write_config()
        await observed.is_proven(2)


async def test_expired_set_is_not_put_back(factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer) -> None:
    ahead = 0.0
    sandbox.mount(factory.bundle(1), factory.leaf(end=factory.now + 600))
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        await begin(sandbox, server, observed)
        server.write_config("broken {")
        ahead, leaf = 700.0, factory.leaf()
        sandbox.mount(leaf=leaf)
        status = await observed.reaches(lambda s: s.state is AgentState.RELOAD_REFUSED, "a refusal")
        assert status.failure
        assert "the last proven set has expired" in status.failure.detail
        assert sandbox.file("tls.crt") == leaf.crt, "what a server that starts anew can serve by"
        server.write_config()
        await observed.is_proven(1, leaf)


async def test_busy_server_is_absent_and_not_refused(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        await observed.fails("no_answer")
        looks = {"target": f"signal:{server.pidfile}", "outcome": "absent"}
        sample = observed.agent.registry.get_sample_value
        await eventually(
            lambda: (sample("ca_rotation_reloads_total", looks) or 0) > BRIEF.tries, "more looks than tries"
        )
        assert sandbox.installed().sequence == 2
        server.process.send_signal(signal.SIGCONT)
        await observed.is_proven(2)
        assert all(journey.outcome != "reverted" for journey in observed.status.journeys)


async def test_refused_set_stays_where_no_set_was_proven(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.reaches(lambda s: s.installed, "a set to be installed")
    await server.start()
    server.write_config("broken {")
    sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
    async with sandbox.agent() as observed:
        status = await observed.reaches(lambda s: s.state is AgentState.RELOAD_REFUSED, "a refusal")
        assert status.failure
        assert "no other set has been proven" in status.failure.detail
        server.write_config()
        await observed.is_proven(2)


async def test_installed_set_stays_in_read_only_output_directory(factory: BundleFactory, open_folder: Path) -> None:
    sandbox = AgentSandbox(open_folder, factory)
    with without_privileges():
        sandbox.out.mkdir()
        sandbox.mount(factory.bundle(1), factory.leaf())
        async with sandbox.agent() as observed:
            await observed.is_proven(1)
            before = snapshot(sandbox)
            sandbox.out.chmod(0o555)
            sandbox.mount(factory.bundle(2))
            status = await observed.fails("install_failed")
            assert status.failure
            assert f"{sandbox.out}/" in status.failure.detail
            assert "Permission denied (EACCES)" in status.failure.detail
            assert snapshot(sandbox) == before
            assert status.state is AgentState.PROVEN
            sandbox.out.chmod(0o755)
            await observed.is_proven(2)


async def test_failure_names_output_directory_that_cannot_be_made(
    factory: BundleFactory, sandbox: AgentSandbox
) -> None:
    sandbox.out.write_text("a file is in the way")
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        status = await observed.fails("install_failed")
        assert status.failure
        assert f"{sandbox.out}: expected to write there, found File exists (EEXIST)" in status.failure.detail
        sandbox.out.unlink()
        await observed.is_proven(1)


async def test_refusal_of_one_target_reverts_both(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer, nats_server: MakeServer
) -> None:
    other = nats_server(sandbox.out)
    sandbox.targets = f"{server.target} {other.target}"
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.reaches(lambda s: s.installed, "a set to be installed")
        await server.start()
        await observed.reaches(lambda s: s.targets and s.targets[0].level is Level.PROVEN, "the first to prove")
        assert observed.status.state is AgentState.INSTALLED
        await other.start()
        await observed.is_proven(1)
        other.write_config("broken {")
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        assert [target.level for target in observed.status.targets] == [Level.PROVEN, Level.PROVEN]
        assert serves(sandbox, server)
        assert serves(sandbox, other)


async def test_set_is_tried_three_times_by_default(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(policy=replace(BRIEF, proof_timeout=0.3, tries=RetryPolicy().tries)) as observed:
        await begin(sandbox, server, observed)
        server.write_config("broken {")
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        tries = observed.agent.registry.get_sample_value(
            "ca_rotation_reloads_total", {"target": f"signal:{server.pidfile}", "outcome": "reload_refused"}
        )
        failures = server.log.read_text().count("Failed to reload server configuration")
        assert (tries, failures) == (3, 4), "and once more to go back"


async def test_rejected_announcement_does_not_shorten_backoff_of_refused_set(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer, broker: AnnouncementBroker
) -> None:
    policy = replace(BRIEF, proof_timeout=0.3, tries=1, refused_pause=3.0)
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(policy=policy) as observed:
        await begin(sandbox, server, observed)
        server.write_config("broken {")
        await broker.announce(factory.bundle(6, [factory.epoch + 2, factory.epoch + 1]))
        await observed.fails("overlap")
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        now = asyncio.get_running_loop().time
        at = []
        for tries in (1, 2):
            await eventually(partial(_tried, observed, tries), "a try")
            at.append(now())
        assert at[1] - at[0] > 0.75 * policy.refused_pause
        server.write_config()
        sandbox.mount(factory.bundle(3, [factory.epoch + 1, factory.epoch]))  # which is something that changed
        status = await observed.is_proven(6)
        assert status.failure is None


def _tried(observed: Observed, times: int) -> bool:
    return sum(journey.outcome == AgentState.REVERTED for journey in observed.status.journeys) >= times


async def test_backoff_of_refused_set_grows(factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer) -> None:
    policy: RetryPolicy = replace(BRIEF, proof_timeout=0.2, tries=1, refused_pause=0.05)
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(policy=policy) as observed:
        await begin(sandbox, server, observed)
        server.write_config("broken {")
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))

        await eventually(partial(_tried, observed, 3), "three tries")
        assert policy.refused_pause_after(1) < policy.refused_pause_after(4) < policy.refused_pause_after(40)
        assert policy.refused_pause_after(40) <= 1.1 * policy.longest_refused_pause
        server.write_config()
        await observed.is_proven(2)
